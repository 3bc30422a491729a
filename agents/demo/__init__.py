"""The scripted demo model: a small OpenAI-compatible server, so that no key is needed to try or test anything."""
