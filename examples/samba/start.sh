#!/bin/sh
# The one user gets the password of the environment; then smbd, in the foreground, as process 1.
set -eu
printf '%s\n%s\n' "$SAMBA_PASSWORD" "$SAMBA_PASSWORD" | smbpasswd -s -a watcherd
exec smbd --foreground --no-process-group --debug-stdout
