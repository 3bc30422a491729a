"""The doors to runs: what people and programs ask over HTTP, and what they are answered. `runs` itself knows none."""
