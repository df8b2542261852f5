"""From drawn results to the outbox: names, renames, records, and sources that leave the inbox."""
