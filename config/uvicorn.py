"""Owns how the web process starts: uvicorn's own command, which takes its port from PORT unless told one."""

import os

import environ
from uvicorn.main import main

from config.services import PROJECT

if __name__ == "__main__":
    # The Procfile's lines run without a shell too (systemd, containers), where nobody fills in a $PORT.
    environ.Env.read_env(str(PROJECT / ".env"))
    main(default_map={"port": os.environ.get("PORT") or 8000})
