"""Imported by multiprocessing's fork server, and by nobody else: doing it is its only purpose."""

from __future__ import annotations

from watcherd.inference.replica.imports import ready

ready()
