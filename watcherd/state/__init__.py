"""The state folder: its lock, the mailbox of commands, the live status; and what all parts of a run share."""
