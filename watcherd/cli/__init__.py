"""The command line: a file for each command or group of commands, called like it; `app` puts them together."""
