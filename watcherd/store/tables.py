"""The tables, as SQLAlchemy sees them. The migrations make them; tests prove that both are equal.

All are STRICT: SQLite then refuses a text where a number belongs. Every list of allowed words is a CHECK made from the
enum that the program uses, so that neither can drift from the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from sqlalchemy import (
    REAL,
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from watcherd.job import FINISHED, ErrorClass, Fate, State
from watcherd.store.records import Delivery, Disposal

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD = "0012"
"""The newest migration. Kept here so that opening an up-to-date database need not import alembic."""

Outcome = ("succeeded", "retry", "failed", "quarantined", "released", "interrupted")
"""How an attempt may end; NULL while it runs."""

LengthUnit = ("px", "mm")

JudgedMasks = ("images", "predictions", "jobs")
"""Whose masks an evaluation judged: made of scans for it, files in a folder, results of past jobs."""

Verdicts = ("accepted", "rejected")
"""What people say of masks that they have looked at."""

OutputState = ("intended", "delivered", "removed")

HookTarget = ("command", "url")
HookState = ("waiting", "called", "given-up")

NOT_SUCCEEDED = "state <> 'succeeded'"
"""The condition of the index on the states in which few jobs of a long history are."""

MODEL_NAME = (
    "CASE WHEN json_valid(options) THEN coalesce(CAST(json_extract(options, '$.model') AS TEXT), 'default') "
    "ELSE 'default' END"
)
"""Which model a job is for, from its options."""

metadata = MetaData()


def _key() -> Column[int]:
    return Column("id", Integer, primary_key=True)


def _whole(name: str, *, null: bool = False, default: int | None = None) -> Column[int]:
    return Column(name, Integer, nullable=null, server_default=None if default is None else text(str(default)))


def _real(name: str) -> Column[float]:
    return Column(name, REAL)


def _words(name: str, *, null: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null)


def _bytes(name: str, *, null: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=null)


def _time(name: str, *, null: bool = False) -> Column[str]:
    pattern = "____-__-__T__:__:__.___Z"
    return Column(name, Text, CheckConstraint(f"{name} LIKE '{pattern}'"), nullable=null)


def _one_of(name: str, allowed: Iterable[str], *, null: bool = False) -> Column[str]:
    words = ", ".join(f"'{word}'" for word in allowed)
    return Column(name, Text, CheckConstraint(f"{name} IN ({words})"), nullable=null)


def _flag(name: str, *, default: int = 0) -> Column[int]:
    return Column(
        name, Integer, CheckConstraint(f"{name} IN (0, 1)"), nullable=False, server_default=text(str(default))
    )


def _to(name: str, target: str, *, null: bool = False) -> Column[int]:
    return Column(name, Integer, ForeignKey(target), nullable=null)


def _table(name: str, *parts: Any, **options: Any) -> Table:
    return Table(name, metadata, *parts, sqlite_strict=True, **options)


run = _table(
    "run",
    _key(),
    _time("started_at"),
    _time("ended_at", null=True),
    _words("end_reason", null=True),
    _whole("pid"),
    _words("host"),
    _words("boot_id", null=True),
    _words("version"),
)

replica = _table(
    "replica",
    _key(),
    _to("run_id", "run.id"),
    _whole("number"),
    _words("segmenter"),
    _words("model"),
    _words("model_revision"),
    _words("dtype"),
    _words("placement"),
    _whole("pid", null=True),
    _time("started_at"),
    _time("ready_at", null=True),
    _whole("load_ms", null=True),
    _words("weights_mib", null=True),
    _real("host_rss_mib"),
    _time("ended_at", null=True),
    _words("end_reason", null=True),
    Index("replica_run", "run_id"),
)

scan = _table(
    "scan",
    _key(),
    Column("sha256", Text, nullable=False, unique=True),
    _whole("size_bytes"),
    _whole("width", null=True),
    _whole("height", null=True),
    _whole("frames", null=True),
    _words("format", null=True),
    _words("spool_name", null=True),
    Index("scan_spooled", "id", sqlite_where=text("spool_name IS NOT NULL")),
)

arrival = _table(
    "arrival",
    _key(),
    _to("run_id", "run.id"),
    _bytes("path"),
    _words("path_text"),
    _one_of("fate", Fate),
    _words("reason", null=True),
    _time("seen_at"),
    _time("ingested_at", null=True),
    _whole("size_bytes", null=True),
    _whole("mtime_ns", null=True),
    _whole("device", null=True),
    _whole("inode", null=True),
    _whole("ctime_ns", null=True),
    _to("job_id", "job.id", null=True),
    _whole("duplicate_of", null=True),
    _flag("present", default=1),
    _one_of("delivery", get_args(Delivery), null=True),
    _one_of("disposal", get_args(Disposal), null=True),
    _time("disposed_at", null=True),
    _bytes("disposed_path", null=True),
    # What stands after the last slash: people ask for a name and seldom know the folder.
    Column(
        "name",
        Text,
        Computed("substr(path_text, length(rtrim(path_text, replace(path_text, '/', ''))) + 1)", persisted=False),
    ),
    # A file that several models compute has an arrival for each. The first one's has the file; the others' name it
    # here, lie nowhere themselves (present = 0, no disposal), and are counted there while they have no visible result.
    # No foreign key: pruning takes them out in any order.
    _whole("file_of", null=True),
    _whole("awaited", default=0),
    Index("arrival_called", "name"),
    Index("arrival_present", "path", unique=True, sqlite_where=text("present = 1")),
    Index("arrival_job", "job_id"),
    Index("arrival_name", "path_text", "job_id"),
    Index("arrival_to_deliver", "id", sqlite_where=text("delivery IN ('due', 'intended')")),
    Index(
        "arrival_to_dispose",
        "id",
        sqlite_where=text("disposal = 'pending' AND delivery IN ('delivered', 'none') AND awaited = 0"),
    ),
    Index("arrival_beside", "file_of", sqlite_where=text("file_of IS NOT NULL")),
    Index("arrival_duplicate", "id", sqlite_where=text("fate = 'duplicate'")),
    Index("arrival_unsettled", "id", sqlite_where=text("fate IN ('settling', 'ignored')")),
    sqlite_autoincrement=True,
)

job = _table(
    "job",
    _key(),
    _to("scan_id", "scan.id"),
    # The first arrival. No foreign key: arrivals point to jobs, and two tables that point at each other
    # can neither be filled nor emptied in any order.
    _whole("arrival_id"),
    _words("source"),
    _words("profile"),
    _words("options"),
    _words("options_key"),
    _words("segmenter"),
    _words("model"),
    _words("model_revision"),
    _words("dtype"),
    _one_of("state", State),
    _words("error", null=True),
    _one_of("error_class", ErrorClass, null=True),
    _words("advice", null=True),
    _whole("priority", default=0),
    _time("not_before", null=True),
    _whole("attempts", default=0),
    _whole("attempts_before", default=0),
    _whole("crashes_alone", default=0),
    _whole("interruptions", default=0),
    _flag("solo"),
    _to("run_id", "run.id", null=True),
    _whole("attempt_id", null=True),
    _words("moved_why"),
    _words("reason", null=True),
    _time("moved_at"),
    _time("created_at"),
    _time("queued_at"),
    _time("started_at", null=True),
    _time("finished_at", null=True),
    _words("answer", null=True),
    _words("decode", null=True),
    _words("note", null=True),
    _real("threshold"),
    _real("mask_fraction"),
    _whole("queue_ms", null=True),
    _whole("decode_ms", null=True),
    _whole("inference_ms", null=True),
    _whole("render_ms", null=True),
    _whole("batch_size", null=True),
    _real("host_peak_rss_mib"),
    # What sidecars say of the scan, as JSON: the rest of its options follows from the configuration. NULL: written by
    # a version that kept no note of it.
    _words("overrides", null=True),
    # The model's name in the configuration. Options that are no JSON are refused, by whichever model is there.
    Column("model_name", Text, Computed(MODEL_NAME, persisted=False)),
    UniqueConstraint("scan_id", "options_key"),
    CheckConstraint("state <> 'running' OR (run_id IS NOT NULL AND attempt_id IS NOT NULL)", name="running_is_claimed"),
    CheckConstraint(
        "(finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'quarantined', 'cancelled'))",
        name="finished_has_a_time",
    ),
    CheckConstraint("state NOT IN ('failed', 'quarantined') OR error IS NOT NULL", name="failure_has_a_reason"),
    # (priority, id) in the order of claims; not_before and solo make it covering, so that jobs that must wait
    # are stepped over without reading their rows.
    Index("job_claim", text("priority DESC"), "id", "not_before", "solo", sqlite_where=text("state = 'queued'")),
    # The same for the jobs of one model: a backlog of another costs its claims nothing.
    Index(
        "job_of_model",
        "model_name",
        text("priority DESC"),
        "id",
        "not_before",
        "solo",
        sqlite_where=text("state = 'queued'"),
    ),
    Index("job_waiting_since", "queued_at", sqlite_where=text("state = 'queued'")),
    # A statement uses it only if it says NOT_SUCCEEDED to the letter: SQLite does not conclude it from other terms.
    Index("job_not_succeeded", "state", sqlite_where=text(NOT_SUCCEEDED)),
    Index("job_failed", "finished_at", sqlite_where=text("state IN ('failed', 'quarantined')")),
    Index("job_finished", "finished_at", "state", sqlite_where=text("finished_at IS NOT NULL")),
    Index("job_created", "created_at"),
    sqlite_autoincrement=True,
)

attempt = _table(
    "attempt",
    _key(),
    _to("job_id", "job.id"),
    _whole("number"),
    _to("run_id", "run.id"),
    _to("replica_id", "replica.id", null=True),
    _time("started_at"),
    _time("ended_at", null=True),
    _one_of("outcome", Outcome, null=True),
    _one_of("error_class", ErrorClass, null=True),
    _words("error", null=True),
    _whole("decode_ms", null=True),
    _whole("inference_ms", null=True),
    _whole("render_ms", null=True),
    _whole("batch_size", null=True),
    _real("host_peak_rss_mib"),
    Index("attempt_job", "job_id"),
    # An id is the proof of a claim (see queue.py): it must never come back.
    sqlite_autoincrement=True,
)

attempt_device = _table(
    "attempt_device",
    Column("attempt_id", Integer, ForeignKey("attempt.id"), primary_key=True),
    Column("device", Text, primary_key=True),
    _words("name", null=True),
    _real("vram_before_mib"),
    _real("vram_peak_allocated_mib"),
    _real("vram_peak_reserved_mib"),
    _real("nvml_used_mib"),
    _real("nvml_process_mib"),
    Index("attempt_device_peak", "vram_peak_allocated_mib"),
    sqlite_with_rowid=False,
)

output = _table(
    "output",
    _key(),
    _to("job_id", "job.id"),
    _to("arrival_id", "arrival.id"),
    # No foreign key: pruning an attempt would look through all outputs for it.
    _whole("attempt_id", null=True),
    _words("kind"),
    _bytes("path"),
    _words("path_text"),
    _bytes("staged_path"),
    _words("sha256"),
    _whole("bytes"),
    _one_of("state", OutputState),
    _time("delivered_at", null=True),
    Index("output_path", "path", unique=True, sqlite_where=text("state <> 'removed'")),
    Index("output_job", "job_id"),
    Index("output_arrival", "arrival_id"),
)

attribute = _table(
    "attribute",
    Column("job_id", Integer, ForeignKey("job.id"), primary_key=True),
    Column("keyword", Text, primary_key=True),
    _words("value"),
    sqlite_with_rowid=False,
)

measure = _table(
    "measure",
    Column("job_id", Integer, ForeignKey("job.id"), primary_key=True),
    Column("frame", Integer, primary_key=True),
    _flag("fullest"),
    _one_of("unit", LengthUnit),
    Column("area_fraction", REAL, nullable=False),
    _whole("components", null=True),
    _real("length"),
    _real("mean_width"),
    _real("max_width"),
    Index("measure_of_job", "job_id", unique=True, sqlite_where=text("fullest = 1")),
    sqlite_with_rowid=False,
)

event = _table(
    "event",
    _key(),
    _time("at"),
    _whole("job_id", null=True),
    _whole("arrival_id", null=True),
    _words("kind"),
    _words("from_state", null=True),
    _words("to_state", null=True),
    _whole("run_id", null=True),
    _words("detail", null=True),
    Index("event_job", "job_id"),
)

hook = _table(
    "hook",
    _key(),
    _to("job_id", "job.id"),
    _words("key"),
    _one_of("target", HookTarget),
    _one_of("event", sorted(FINISHED)),
    _one_of("state", HookState),
    _whole("tries", default=0),
    _time("created_at"),
    _time("not_before", null=True),
    _time("ended_at", null=True),
    _words("error", null=True),
    UniqueConstraint("key", "target"),
    CheckConstraint("(not_before IS NOT NULL) = (state = 'waiting')", name="waiting_has_a_time"),
    Index("hook_job", "job_id"),
    Index("hook_waiting", "not_before", sqlite_where=text("state = 'waiting'")),
    Index("hook_given_up", "ended_at", sqlite_where=text("state = 'given-up'")),
)

hook_wish = _table(
    "hook_wish",
    Column("event", Text, primary_key=True, nullable=False),
    Column("target", Text, primary_key=True, nullable=False),
    sqlite_with_rowid=False,
)

evaluation = _table(
    "evaluation",
    _key(),
    _time("at"),
    _words("version"),
    _one_of("source", JudgedMasks),
    _words("model"),
    _real("threshold"),
    _words("profile", null=True),
    _words("truth"),
    _words("judged"),
    _words("against", null=True),
    _whole("scans"),
    _whole("failed"),
    _words("figures"),
)

evaluation_scan = _table(
    "evaluation_scan",
    Column("evaluation_id", Integer, ForeignKey("evaluation.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    _words("name"),
    _words("group_name"),
    _one_of("unit", LengthUnit),
    _words("figures"),
    sqlite_with_rowid=False,
)

review = _table(
    "review",
    Column("job_id", Integer, ForeignKey("job.id"), primary_key=True, autoincrement=False),
    # Whose mask was looked at. No foreign key, as in output.
    _whole("attempt_id", null=True),
    _one_of("verdict", Verdicts),
    _words("note"),
    _words("reviewer"),
    _time("at"),
    Index("review_verdict", "verdict", "job_id"),
)

command = _table(
    "command",
    Column("id", Text, primary_key=True, nullable=False),
    _time("received_at"),
    _words("verb"),
    _words("arguments"),
    _words("outcome", null=True),
    _words("error", null=True),
    _time("finished_at", null=True),
)

setting = _table(
    "setting",
    Column("key", Text, primary_key=True, nullable=False),
    _words("value"),
)

total = _table(
    "total",
    Column("name", Text, primary_key=True, nullable=False),
    _whole("count"),
    sqlite_with_rowid=False,
)

hour = _table(
    "hour",
    Column("hour", Text, primary_key=True, nullable=False),
    _whole("succeeded", default=0),
    _whole("failed", default=0),
    _whole("queue_ms", default=0),
    _whole("decode_ms", default=0),
    _whole("inference_ms", default=0),
    _whole("render_ms", default=0),
    sqlite_with_rowid=False,
)

device_hour = _table(
    "device_hour",
    Column("hour", Text, primary_key=True, nullable=False),
    Column("device", Text, primary_key=True, nullable=False),
    Column("name", Text, primary_key=True, nullable=False),
    _whole("attempts", default=0),
    _whole("busy_ms", default=0),
    _real("vram_peak_allocated_mib"),
    sqlite_with_rowid=False,
)
