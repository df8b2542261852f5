"""The service: what lives in its main process, how it is put together, started, watched and stopped."""
