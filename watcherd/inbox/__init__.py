"""From a file that somebody drops to a copy in the spool, and out of the inbox again when its job is done.

`events` give hints, `sweep` gives the truth, `settle` decides when a file has stopped changing, `ingest` copies it into
the `spool`, `dispose` archives or deletes the source, `mounts` knows the file system. None of them knows the database:
what was taken before is asked of a callable, and what came of each file is handed back as a value. One thread runs:

    events.start()
    while not stopping:
        here = presence(here.identity, identify(inbox))      # offline: wait, change nothing; renewed: events.rewatch()
        now, hints = monotonic(), events.fetch()
        for path in hints.paths:
            tell(look(root_fd, ignore, path), hinted=True)    # Candidate: settler.observe; Ignored: record it;
        for folder in hints.folders:                          # Folder: sweep it; Gone: settler.gone
            sweeps.append(sweep(root_fd, ignore, folder=folder, entering=events.watch))
        if hints.sweep or now >= next_sweep:
            sweeps.append(sweep(root_fd, ignore, entering=events.watch))
        while sweeps and settler.room >= CHUNK:               # a full settler leaves the sweep where it is
            tell everything in its next chunk that is not known by (path, signature)
        for path in settler.due(now):
            tell(look(root_fd, ignore, path))
        batch = settler.settled(now, limit=BATCH)
        for outcome in take(batch, root_fd, spool):           # TransientError: intake pauses, says why, and tries again
            Ingested: one transaction for all of them, then settler.gone(path)
            NotYet:   settler.wait(outcome, now)
            Ignored:  record it, settler.gone(path)
            Gone:     settler.gone(path)
        wait for events, settler.next_wakeup() or next_sweep, whichever is first

A file that did not fit (`observe` returned False) is found by a sweep, which must then be asked for. What is `Ignored`
comes with every sweep again, until its ``ctime_ns`` changes it is the same news.
"""
