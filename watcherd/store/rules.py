"""What the database itself sees to, as triggers.

- A job only moves as the table of transitions in ``job.py`` allows, whoever moves it.
- Every move leaves an event; events are never changed.
- ``total`` counts jobs by state and arrivals by fate, ``hour`` and ``device_hour`` add up work done. Counting a million
  rows takes a tenth of a second; these tables answer at once, and because a trigger writes them in the transaction of
  the change itself they cannot differ from what they count (`backup.check` adds up again and compares).
- ``awaited`` counts for a file that several models compute how many of the others have no visible result yet.
- A call of a hook is written down where one is wished for (``hooks.py``), in the transaction that ends the job.

Triggers rather than statements in ``queue.py``: they also hold for a person with the ``sqlite3`` shell, and cost a few
microseconds where a statement from Python costs thirty.
"""

# ruff: noqa: S608 - statements are put together from words of our own; values are always bound

from __future__ import annotations

from watcherd.job import FINISHED, TRANSITIONS

_ALLOWED = ", ".join(f"'{old}>{new}'" for old, ways in TRANSITIONS.items() for new in ways)

_FINISHED = ", ".join(f"'{state}'" for state in sorted(FINISHED))


def _count(name: str, change: str) -> str:
    return (
        f"INSERT INTO total (name, count) VALUES ({name}, {change}) "
        f"ON CONFLICT (name) DO UPDATE SET count = count + excluded.count;"
    )


_OPEN = "delivery IN ('waiting', 'due', 'intended')"
"""The visible result of a name is still to come."""

_EVENT_DETAIL = """CASE WHEN coalesce(NEW.error_class, NEW.not_before, NEW.reason) IS NULL
        THEN json_object('attempt', NEW.attempts)
        ELSE json_object('attempt', NEW.attempts, 'reason', NEW.reason, 'error_class', NEW.error_class,
                         'error', NEW.error, 'not_before', NEW.not_before, 'solo', NEW.solo) END"""

TRIGGERS: dict[str, str] = {
    "job_moves_as_allowed": f"""
        CREATE TRIGGER job_moves_as_allowed BEFORE UPDATE OF state ON job
        WHEN NEW.state <> OLD.state AND OLD.state || '>' || NEW.state NOT IN ({_ALLOWED})
        BEGIN
            SELECT RAISE(ABORT, 'a job cannot move like this; watcherd/job.py has the table of transitions');
        END""",
    "job_added": f"""
        CREATE TRIGGER job_added AFTER INSERT ON job
        BEGIN
            INSERT INTO event (at, job_id, arrival_id, kind, to_state)
            VALUES (NEW.moved_at, NEW.id, NEW.arrival_id, NEW.moved_why, NEW.state);
            {_count("'job.' || NEW.state", "1")}
        END""",
    "job_moved": f"""
        CREATE TRIGGER job_moved AFTER UPDATE OF state ON job WHEN NEW.state <> OLD.state
        BEGIN
            INSERT INTO event (at, job_id, kind, from_state, to_state, run_id, detail)
            VALUES (NEW.moved_at, NEW.id, NEW.moved_why, OLD.state, NEW.state, NEW.run_id, {_EVENT_DETAIL});
            {_count("'job.' || OLD.state", "-1")}
            {_count("'job.' || NEW.state", "1")}
        END""",
    "job_ended": """
        CREATE TRIGGER job_ended AFTER UPDATE OF state ON job
        WHEN NEW.state <> OLD.state AND NEW.state IN ('succeeded', 'failed', 'quarantined')
        BEGIN
            INSERT INTO hour (hour, succeeded, failed, queue_ms, decode_ms, inference_ms, render_ms)
            VALUES (substr(NEW.finished_at, 1, 13), NEW.state = 'succeeded', NEW.state <> 'succeeded',
                    coalesce(NEW.queue_ms, 0), coalesce(NEW.decode_ms, 0),
                    coalesce(NEW.inference_ms, 0),
                    coalesce(NEW.render_ms, 0))
            ON CONFLICT (hour) DO UPDATE SET
                succeeded = succeeded + excluded.succeeded, failed = failed + excluded.failed,
                queue_ms = queue_ms + excluded.queue_ms, decode_ms = decode_ms + excluded.decode_ms,
                inference_ms = inference_ms + excluded.inference_ms, render_ms = render_ms + excluded.render_ms;
        END""",
    "job_calls_hooks": f"""
        CREATE TRIGGER job_calls_hooks AFTER UPDATE OF state ON job
        WHEN NEW.state <> OLD.state AND NEW.state IN ({_FINISHED})
        BEGIN
            INSERT INTO hook (job_id, key, target, event, state, created_at, not_before)
            SELECT NEW.id, NEW.id || '-' || strftime('%Y%m%dT%H%M%S', NEW.finished_at)
                   || substr(NEW.finished_at, 21, 3) || 'Z', target, NEW.state, 'waiting', NEW.moved_at, NEW.moved_at
            FROM hook_wish WHERE event = NEW.state;
        END""",
    "job_pruned": f"""
        CREATE TRIGGER job_pruned AFTER DELETE ON job
        BEGIN
            {_count("'job.' || OLD.state", "-1")}
        END""",
    "arrival_added": f"""
        CREATE TRIGGER arrival_added AFTER INSERT ON arrival
        BEGIN
            {_count("'arrival.' || NEW.fate", "1")}
        END""",
    "arrival_is_duplicate": """
        CREATE TRIGGER arrival_is_duplicate AFTER INSERT ON arrival WHEN NEW.fate = 'duplicate'
        BEGIN
            INSERT INTO event (at, job_id, arrival_id, kind, run_id, detail)
            VALUES (NEW.ingested_at, NEW.job_id, NEW.id, 'dropped-again', NEW.run_id,
                    json_object('source', NEW.path_text));
        END""",
    "arrival_turned": f"""
        CREATE TRIGGER arrival_turned AFTER UPDATE OF fate ON arrival WHEN NEW.fate <> OLD.fate
        BEGIN
            {_count("'arrival.' || OLD.fate", "-1")}
            {_count("'arrival.' || NEW.fate", "1")}
        END""",
    "arrival_awaited": f"""
        CREATE TRIGGER arrival_awaited AFTER INSERT ON arrival WHEN NEW.file_of IS NOT NULL AND NEW.{_OPEN}
        BEGIN
            UPDATE arrival SET awaited = awaited + 1 WHERE id = NEW.file_of;
        END""",
    "arrival_awaited_again": f"""
        CREATE TRIGGER arrival_awaited_again AFTER UPDATE OF delivery ON arrival
        WHEN NEW.file_of IS NOT NULL AND (NEW.{_OPEN}) <> (OLD.{_OPEN})
        BEGIN
            UPDATE arrival SET awaited = awaited + CASE WHEN NEW.{_OPEN} THEN 1 ELSE -1 END WHERE id = NEW.file_of;
        END""",
    "arrival_pruned": f"""
        CREATE TRIGGER arrival_pruned AFTER DELETE ON arrival
        BEGIN
            {_count("'arrival.' || OLD.fate", "-1")}
        END""",
    "device_used": """
        CREATE TRIGGER device_used AFTER INSERT ON attempt_device
        BEGIN
            INSERT INTO device_hour (hour, device, name, attempts, busy_ms, vram_peak_allocated_mib)
            SELECT substr(coalesce(ended_at, started_at), 1, 13), NEW.device, coalesce(NEW.name, ''), 1,
                   coalesce(inference_ms, 0), NEW.vram_peak_allocated_mib
            FROM attempt WHERE id = NEW.attempt_id
            ON CONFLICT (hour, device, name) DO UPDATE SET
                attempts = attempts + 1, busy_ms = busy_ms + excluded.busy_ms,
                vram_peak_allocated_mib = CASE
                    WHEN vram_peak_allocated_mib IS NULL THEN excluded.vram_peak_allocated_mib
                    WHEN excluded.vram_peak_allocated_mib IS NULL THEN vram_peak_allocated_mib
                    ELSE max(vram_peak_allocated_mib, excluded.vram_peak_allocated_mib) END;
        END""",
    "event_is_final": """
        CREATE TRIGGER event_is_final BEFORE UPDATE ON event
        BEGIN
            SELECT RAISE(ABORT, 'events are never changed');
        END""",
}
"""Name to statement. `database` puts them in place again whenever the stored text differs."""
