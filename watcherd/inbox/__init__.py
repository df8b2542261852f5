"""Looking at the inbox, copying out of it, taking sources away. Nothing here knows the database.

`events`
    the kernel's file events: hints where to look
`sweep`
    one pass over the whole inbox: the truth
`settle`
    waits until a file has stopped changing
`sidecars`, `sidecar_options`
    small files beside scans that override their options
`ingest`, `spool`
    copies what has settled, each copy under the hash of its bytes
`durable`
    syncs sources before anything relies on them
`archive`, `unsteady`, `tidy`
    archives, keeps or deletes sources; folders that have become empty
`mounts`, `folders`, `litter`
    file systems, descriptors, names that are never scans
`requests`, `expected`
    what other threads tell the intake, and ask of it

What came of each file is handed back as a value (`values`); `watcherd.intake` decides what follows from it.
A file that did not fit (`settle.Settler.observe` returned False) is found by a later sweep, which must be asked for.
What is ignored comes with every sweep again: until its ``ctime_ns`` changes it is no news.
"""
