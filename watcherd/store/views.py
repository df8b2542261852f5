"""The views: what people with the ``sqlite3`` shell read. They are documented in docs/history.md, with queries.

Short and telling columns come first. Times are UTC; lists are JSON text. Views hold no data, so they belong to the
program and not to a migration: `database` replaces those whose text differs when it opens the file.
"""

# ruff: noqa: S608 - statements are put together from words of our own; values are always bound

from __future__ import annotations

from watcherd.store.tables import NOT_SUCCEEDED

_DEVICES = """(SELECT json_group_array(json_object(
            'device', d.device, 'name', d.name, 'vram_before_mib', d.vram_before_mib,
            'vram_peak_allocated_mib', d.vram_peak_allocated_mib, 'vram_peak_reserved_mib', d.vram_peak_reserved_mib,
            'nvml_used_mib', d.nvml_used_mib, 'nvml_process_mib', d.nvml_process_mib))
        FROM attempt_device AS d WHERE d.attempt_id = job.attempt_id)"""

_OUTPUTS = """(SELECT json_group_array(json_object(
            'kind', o.kind, 'path', o.path_text, 'sha256', o.sha256, 'bytes', o.bytes))
        FROM output AS o WHERE o.arrival_id = job.arrival_id AND o.state = 'delivered')"""

_STAGES = "\n        UNION ALL ".join(
    f"SELECT hour, '{stage}' AS stage, succeeded + failed AS jobs, {stage}_ms AS total_ms FROM hour"
    for stage in ("queue", "decode", "inference", "render")
)

_MINUTES = "cast((julianday('now') - julianday({})) * 1440 AS INTEGER) AS minutes"

_UNFINISHED = f"""SELECT
            {_MINUTES.format("moved_at")}, state, source, id AS job_id, error AS why, attempts, not_before,
            moved_at AS since
        FROM job WHERE {NOT_SUCCEEDED} AND state IN ('running', 'delivering')
        UNION ALL SELECT {_MINUTES.format("queued_at")}, state, source, id, error, attempts, not_before, queued_at
        FROM job WHERE state = 'queued'
        UNION ALL SELECT {_MINUTES.format("seen_at")}, fate, path_text, cast(NULL AS INTEGER),
            reason, cast(0 AS INTEGER), cast(NULL AS TEXT), seen_at
        FROM arrival WHERE fate IN ('settling', 'ignored') AND fate = 'settling' AND present = 1"""
"""Each condition says that of a partial index to the letter, and corresponding columns have the same type: SQLite then
merges the three in order of time instead of sorting all that waits."""

_ATTRIBUTES = "(SELECT json_group_object(keyword, value) FROM attribute WHERE job_id = job.id)"

_BOUNDED = ("dice", "cldice")
"""Figures of an evaluation that are shown with the ends of their interval."""

_MEANS = ", ".join(
    f"json_extract(figures, '$.{name}.mean') AS {name}"
    + (
        f", json_extract(figures, '$.{name}.low') AS {name}_low, json_extract(figures, '$.{name}.high') AS {name}_high"
        if name in _BOUNDED
        else ""
    )
    for name in (
        *("dice", "cldice", "iou", "ciou", "giou", "precision", "recall", "hd95", "hd95_mm", "assd", "assd_mm"),
        *("nsd", "betti0", "betti1", "auc", "ap", "j", "f", "jf"),
    )
)

_OF_SCAN = ", ".join(
    f"json_extract(s.figures, '$.{name}') AS {name}"
    for name in (
        *("dice", "cldice", "iou", "precision", "recall", "hd95", "assd", "nsd", "betti0", "betti1", "auc", "ap"),
        *("j", "f", "jf", "length", "length_drawn", "width", "width_drawn"),
    )
)

VIEWS: dict[str, str] = {
    "jobs": f"""
        CREATE VIEW jobs AS SELECT
            job.id, job.state, job.source, job.mask_fraction, job.queue_ms, job.decode_ms, job.inference_ms,
            job.render_ms, job.attempts, job.error_class, job.error,
            job.created_at, job.started_at, job.finished_at,
            scan.width, scan.height, scan.frames, scan.size_bytes,
            job.profile, job.model_name, job.segmenter, job.model, job.model_revision, job.dtype,
            (SELECT run.version FROM attempt JOIN run ON run.id = attempt.run_id WHERE attempt.id = job.attempt_id)
                AS watcherd_version,
            CASE WHEN json_valid(job.options) THEN json_extract(job.options, '$.prompt') END AS prompt,
            job.answer, job.decode,
            job.note, job.threshold, job.batch_size, job.host_peak_rss_mib,
            job.priority, job.not_before, job.solo, job.advice, scan.sha256, scan.format,
            m.frame AS measured_frame, m.area_fraction, m.components, m.length, m.mean_width, m.max_width, m.unit,
            {_ATTRIBUTES} AS dicom,
            {_OUTPUTS} AS outputs,
            {_DEVICES} AS devices
        FROM job JOIN scan ON scan.id = job.scan_id
        LEFT JOIN measure AS m ON m.job_id = job.id AND m.fullest = 1""",
    "measures": """
        CREATE VIEW measures AS SELECT
            m.job_id, job.source, m.frame, m.area_fraction, m.components, m.length, m.mean_width, m.max_width, m.unit,
            m.fullest, job.finished_at
        FROM measure AS m JOIN job ON job.id = m.job_id""",
    "queue": """
        CREATE VIEW queue AS SELECT
            id, state, source, priority, attempts, not_before, error_class, error, queued_at, profile, solo,
            model_name
        FROM job WHERE state = 'queued' ORDER BY priority DESC, id""",
    "failures": """
        CREATE VIEW failures AS SELECT
            id, state, source, error_class, error, advice, attempts, finished_at, answer, profile
        FROM job INDEXED BY job_failed WHERE state IN ('failed', 'quarantined') ORDER BY finished_at DESC""",
    "today": """
        CREATE VIEW today AS SELECT
            id, state, source, mask_fraction, queue_ms, decode_ms, inference_ms, render_ms, error_class, finished_at
        FROM job WHERE finished_at >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', 'localtime', 'start of day', 'utc')""",
    "vram": """
        CREATE VIEW vram AS SELECT
            attempt.job_id, d.device, d.name, d.vram_peak_allocated_mib, d.vram_peak_reserved_mib, d.vram_before_mib,
            d.nvml_used_mib, d.nvml_process_mib, attempt.batch_size, attempt.inference_ms, attempt.outcome,
            attempt.started_at, job.source
        FROM attempt_device AS d JOIN attempt ON attempt.id = d.attempt_id JOIN job ON job.id = attempt.job_id""",
    "throughput": """
        CREATE VIEW throughput AS SELECT
            hour, succeeded, failed,
            queue_ms / (succeeded + failed) AS mean_queue_ms, decode_ms / (succeeded + failed) AS mean_decode_ms,
            inference_ms / (succeeded + failed) AS mean_inference_ms,
            render_ms / (succeeded + failed) AS mean_render_ms
        FROM hour""",
    "cards": """
        CREATE VIEW cards AS SELECT
            hour, device, name, attempts, round(busy_ms / 36000.0, 1) AS busy_percent, busy_ms,
            vram_peak_allocated_mib
        FROM device_hour""",
    "duplicates": """
        CREATE VIEW duplicates AS SELECT
            arrival.id, arrival.path_text AS source, arrival.duplicate_of, job.source AS same_as, job.state,
            arrival.delivery, arrival.seen_at, arrival.disposal
        FROM arrival JOIN job ON job.id = arrival.duplicate_of WHERE arrival.fate = 'duplicate'""",
    "names": """
        CREATE VIEW names AS SELECT
            arrival.name, coalesce(job.state, arrival.fate) AS state, arrival.path_text AS source, job.id AS job_id,
            coalesce(job.error, arrival.reason) AS why, arrival.seen_at, job.finished_at,
            arrival.fate, arrival.delivery, arrival.disposal, arrival.id, job.model_name
        FROM arrival LEFT JOIN job ON job.id = arrival.job_id""",
    "results": """
        CREATE VIEW results AS SELECT
            arrival.name, output.kind, output.path_text AS path, output.bytes, output.sha256, output.job_id,
            output.delivered_at, arrival.path_text AS source
        FROM output JOIN arrival ON arrival.id = output.arrival_id WHERE output.state = 'delivered'""",
    "stages": f"""
        CREATE VIEW stages AS {_STAGES}""",
    "evaluations": f"""
        CREATE VIEW evaluations AS SELECT
            id, at, model, threshold, scans, {_MEANS}, source, profile, truth, judged, against, failed, version
        FROM evaluation""",
    "evaluation_scans": f"""
        CREATE VIEW evaluation_scans AS SELECT
            s.evaluation_id, s.name, {_OF_SCAN}, s.unit, s.group_name, e.model, e.threshold, e.at
        FROM evaluation_scan AS s JOIN evaluation AS e ON e.id = s.evaluation_id""",
    "reviews": """
        CREATE VIEW reviews AS SELECT
            r.job_id, r.verdict, job.source, r.note, r.reviewer, r.at,
            (r.attempt_id IS NOT job.attempt_id OR job.state <> 'succeeded') AS outdated,
            job.profile, job.model_name, job.segmenter, job.model, job.model_revision, job.threshold,
            job.mask_fraction, job.state, r.attempt_id
        FROM review AS r JOIN job ON job.id = r.job_id""",
    "unfinished": f"""
        CREATE VIEW unfinished AS {_UNFINISHED}""",
}
"""Name to statement."""
