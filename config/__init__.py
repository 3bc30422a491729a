"""Wiring: settings, processes, URLs. Importing the package makes the Celery application the current one."""
