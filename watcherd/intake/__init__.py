"""From the inbox to the queue. One thread runs all of it: `intake.Intake.run`."""
