"""The tables of the configuration: their keys, defaults and bounds. Frozen."""

from __future__ import annotations

import re
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from watcherd.formats.dicom_tags import check_keywords
from watcherd.job import DEFAULT_MODEL, Decode, Options

Output = Literal["mask", "overlay", "panel", "contact-sheet", "preview", "video", "probability", "dicom-seg"]
Disposal = Literal["archive", "keep", "delete"]
HookEvent = Literal["succeeded", "failed", "quarantined", "cancelled"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]

IGNORED_NAMES = (
    ".*", "._*", ".DS_Store", "Thumbs.db", "desktop.ini", "@eaDir", "*.part", "*.partial", "*.filepart",
    "*.crdownload", "*.tmp", "~$*", ".syncthing.*", "~syncthing~*", "#recycle", ".Trash*",
)  # fmt: skip
"""Names of files on their way and of other programs' own files (docs/concepts.md)."""


MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}"
"""What a model may be called: a part of a path, of a variable's name and of a metric's label alike."""


SHORTEST_PASSWORD = 12
"""Characters of a password for the page, at least."""


def plain_name(name: str) -> str:
    """A model's name as a variable of the environment has it."""
    return name.lower().replace("-", "_")


class NamedInTheEnvironment(PydanticBaseSettingsSource):
    """What the environment overrides, with models called as the file calls them.

    Variables are read without regard to capitals, and hold no ``-``: ``WATCHERD_MODELS__CORONARY_NEW__PATH`` is for
    ``[models.coronary-new]``.
    """

    def __init__(self, environment: PydanticBaseSettingsSource, file: PydanticBaseSettingsSource) -> None:
        super().__init__(environment.settings_cls)
        self._environment = environment
        self._file = file

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Not asked for: the values come from the environment's own source."""
        return self._environment.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        """The values."""
        values, in_file = self._environment(), self._file().get("models")
        if isinstance(models := values.get("models"), dict) and isinstance(in_file, dict):
            called = {plain_name(name): name for name in in_file if isinstance(name, str)}
            values = values | {"models": {called.get(plain_name(name), name): each for name, each in models.items()}}
        return values


class Section(BaseModel):
    """A table of the file: its keys are all there are."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Inbox(Section):
    """Where scans come in."""

    path: Path = Path("inbox")
    settle_seconds: Annotated[float, Field(ge=0)] = 2.0
    """How long a file must not change before it is taken."""
    settle_limit_seconds: Seconds = 3600.0
    """A file that is preallocated, truncated or open for writing is waited for as long as this."""
    sweep_seconds: Literal["auto"] | Seconds = "auto"
    """auto: 60 on local file systems, 3 on network ones."""
    events: bool = True
    """Listen to the kernel's file events; the sweeps find every file without them, only later."""
    on_success: Disposal = "archive"
    on_failure: Disposal = "archive"
    archive_path: Path = Path("archive")
    run_quiet_seconds: Seconds = 10.0
    """Frames that come as single files (``group_frames``) wait for one another until none has come for this long."""
    ignore: tuple[str, ...] = IGNORED_NAMES
    """Names that are never scans, as shell patterns."""


class Outbox(Section):
    """Where results go."""

    path: Path = Path("outbox")
    outputs: tuple[Output, ...] = ("mask", "overlay")
    layout: Literal["per-kind", "per-scan"] = "per-kind"
    measures: bool = True
    """Measure masks: pieces, length and widths (docs/measures.md)."""


class StateFolder(Section):
    """The folder that holds the database, the spool and the run files; local, and private to watcherd."""

    path: Path = Path("state")

    @property
    def database(self) -> Path:
        return self.path / "watcherd.db"

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    @property
    def lock(self) -> Path:
        return self.path / "watcherd.lock"

    @property
    def commands(self) -> Path:
        """Where other processes leave commands for the daemon."""
        return self.path / "commands"

    @property
    def bridge(self) -> Path:
        """The socket on which `watcherd bridge` is asked for the cluster's machines."""
        return self.path / "bridge.sock"

    @property
    def cache(self) -> Path:
        """What may be deleted at any time: measured reserves, golden answers."""
        return self.path / "cache"


class Sa2va(Section):
    """What is said to a Sa2VA model."""

    prompt: str = "Please segment the blood vessel."
    draft: str = "Sure, [SEG]."
    """The answer that the model is expected to give."""
    decode: Decode = "verify"
    max_new_tokens: Positive = 2048
    checkpoint: Path | None = None
    """A checkpoint of a training run (``iter_*.pth``); ``model.path`` is then the model that it began with."""
    sam2: Path | None = None
    """SAM2's own file (``sam2_hiera_large.pt``), for a checkpoint whose base holds no SAM2."""

    @field_validator("checkpoint", "sam2", mode="before")
    @classmethod
    def _none_when_empty(cls, value: object) -> object:
        return None if value == "" else value


class Sam3(Section):
    """What SAM 3 is asked for, and when it counts as there."""

    prompt: str = "blood vessel"
    """A thing in a few words; several, each a class, with semicolons between them."""
    presence: Fraction = 0.5
    """A thing is not there where the model is less sure of its presence."""
    score: Fraction = 0.3
    """An instance counts where its score is greater."""
    instances: bool = False
    """Keep instances apart, each with a label value of its own; else they are united."""


class Semantic(Section):
    """How a Hugging Face segmentation model is run."""

    classes: tuple[str, ...] = ()
    """Names of the classes that become label values 1, 2, ...; empty: every class but the background."""
    background: tuple[str, ...] = ("background", "other")
    """Names of classes that are no finding."""
    window: Annotated[int, Field(ge=0)] = 0
    """Side of the sliding window in pixels; 0: the model's own input size."""
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
    larger: Literal["tile", "shrink"] = "tile"
    """Scans larger than the window: seen window by window at their own scale, or shrunk to it as a whole."""


class Nnunet(Section):
    """How a results folder of nnU-Net v2 is run."""

    folds: tuple[Literal["all"] | Annotated[int, Field(ge=0)], ...] = ()
    """Whose logits are averaged; empty: every numbered fold that is there."""
    checkpoint: Literal["final", "best"] = "final"
    step: Annotated[float, Field(gt=0, le=1)] = 0.5
    """From tile to tile, as a part of a tile's size."""


class Model(Section):
    """What makes the masks."""

    segmenter: str = "vessel"
    path: Path | None = None
    """A Hugging Face model folder; empty for segmenters that need none."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "fp8-mlp"] = "auto"
    """fp8-mlp: of a Sa2VA built on InternVL on Ada or later, bfloat16 with the language model's MLPs at 8 bits."""
    threshold: Fraction = 0.5
    tta: bool = False
    """Average over flips (test-time augmentation)."""
    batch: Literal["auto"] | Positive = "auto"
    """Frames in one batch; auto: found by the probe at the first start, 2 on a CPU."""
    compile: bool = False
    """torch.compile the parts that gain by it, where they then give the same; kept on disk for later starts."""
    share: Annotated[float, Field(gt=0)] = 1.0
    """Of several models: its weight when cards, or the time of a device that they share, are shared out."""
    keep: bool = False
    """Of several models: it never gives its place on a device to another."""
    sa2va: Sa2va = Sa2va()
    sam3: Sam3 = Sam3()
    semantic: Semantic = Semantic()
    nnunet: Nnunet = Nnunet()

    @field_validator("path", mode="before")
    @classmethod
    def _none_when_empty(cls, value: object) -> object:
        return None if value == "" else value

    @model_validator(mode="after")
    def _eight_bits_of_sa2va(self) -> Self:
        if self.dtype == "fp8-mlp" and self.segmenter != "sa2va":
            raise ValueError(
                f"dtype = 'fp8-mlp' is for the segmenter sa2va, and this is {self.segmenter!r}; set dtype = 'bfloat16'"
            )
        return self


class Devices(Section):
    """Which devices carry the model."""

    use: Literal["auto", "cpu"] | tuple[int | str, ...] = "auto"
    """auto: every GPU, else the CPU; or a list of GPU indexes or UUIDs."""
    max_memory_gib: Annotated[float, Field(ge=0)] = 0
    """Per GPU; 0: all but a safety margin."""
    reserve_gib: Annotated[float, Field(ge=0)] = 0
    """Kept free for activations on each device; 0: what the probe measured."""
    per_replica: Literal["auto"] | Positive = "auto"
    replicas: Literal["auto"] | Positive = "auto"
    """auto: as many as fit on GPUs, 1 on a CPU."""
    idle_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Of several models: one that has had no work for so long gives its place to one that has work and no room; one
    whose scans have waited for so long gets the place of one that is busy."""
    minimum_minutes: Annotated[float, Field(ge=0)] = 5.0
    """Of several models: a place is kept for so long at least."""
    allow_offload: bool = False
    """Let a model that does not fit spill into host memory; slow, and never silent."""
    load_seconds: Seconds = 1800.0
    """A replica that loads longer than this is killed."""
    batch_seconds: Seconds = 300.0
    """A replica that says nothing for so long while it computes a batch is killed, with its stack in the log; where its
    batches were quicker, after 20 times the longest of them, but not before 10 s."""


class Limits(Section):
    """What one scan may cost."""

    max_pixels: Positive = 200_000_000
    """Pixels of one frame; larger ones fail as bad input."""
    max_frames: Positive = 2000
    decode_seconds: Seconds = 60.0
    worker_memory_mib: Positive = 2048
    """Memory of one imaging worker (address space)."""
    workers: Literal["auto"] | Positive = "auto"
    """Imaging workers; auto: as many as cores, 2 to 16, and three quarters of more cores, up to 64."""
    min_free_mib: Annotated[int, Field(ge=0)] = 256
    """Intake pauses while the state folder or the outbox has less room than this."""
    stop_seconds: Seconds = 60.0
    """How long a stop waits for the batches that are being computed."""


class Privacy(Section):
    """File names often hold patients' names."""

    names: Literal["shown", "hidden"] = "shown"
    dicom_tags: tuple[str, ...] = ()
    """Keywords of DICOM attributes that results and history may repeat; all others stay in the scan."""

    @field_validator("dicom_tags")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_keywords(value)
        return value


class Log(Section):
    """What is logged and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, JSON otherwise."""


class Retention(Section):
    """What ``watcherd prune`` takes away; 0 keeps for ever."""

    archive_days: Annotated[float, Field(ge=0)] = 0
    archive_gib: Annotated[float, Field(ge=0)] = 0
    spool_days: Annotated[float, Field(ge=0)] = 30
    """Copies of failed scans, kept for a retry."""
    history_days: Annotated[float, Field(ge=0)] = 0
    backups: Positive = 7


class Metrics(Section):
    """Figures for Prometheus (docs/monitoring.md); nothing is counted while there is neither a file nor a port."""

    file: Path | None = None
    """For node_exporter's textfile collector: a name that ends in ``.prom``; empty: none."""
    port: Annotated[int, Field(ge=0, lt=65536)] = 0
    """Served on 127.0.0.1 alone; 0: not at all."""
    interval_seconds: Seconds = 15.0
    """Between two writes of the file."""

    @field_validator("file", mode="before")
    @classmethod
    def _none_when_empty(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("file")
    @classmethod
    def _named_as_collected(cls, value: Path | None) -> Path | None:
        if value is not None and value.suffix != ".prom":
            raise ValueError('a name that ends in .prom, or node_exporter does not read it; "" for none')
        return value


class Hooks(Section):
    """What is called after a job has ended (docs/hooks.md)."""

    command: tuple[str, ...] = ()
    """A program and its arguments. A name with a slash in it is a path, relative to this file; one without is searched
    for in PATH."""
    url: str = ""
    """Where the job's JSON is posted to; empty: nowhere."""
    headers: dict[str, SecretStr] = {}
    """Sent along with it, for example Authorization; never shown."""
    events: tuple[HookEvent, ...] = ("succeeded", "failed", "quarantined")
    """The states in which a job has ended that are told."""
    timeout_seconds: Seconds = 30.0
    """A call that takes longer is ended, and counts as failed."""
    tries: Positive = 8
    """A call that failed so often is given up; the pauses between them grow from 10 seconds to an hour."""
    at_once: Positive = 4
    """Calls that may run at the same time."""

    @field_validator("command")
    @classmethod
    def _names_a_program(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value and not value[0].strip():
            raise ValueError('a program and its arguments, ["notify", "--quiet"]; [] for none')
        if any("\0" in word for word in value):
            raise ValueError("words without NUL")
        return value

    @field_validator("url")
    @classmethod
    def _can_be_posted_to(cls, value: str) -> str:
        if not value:
            return value
        try:
            parts = urlsplit(value)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError('an address such as "https://host/path"; "" for none')
        if parts.username is not None:
            raise ValueError('an address without a password in it: hooks.headers is the place, {Authorization = "…"}')
        return value

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, content in value.items():
            plain = re.fullmatch(r"[\t\x20-\x7e]*", content.get_secret_value())
            if not plain or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
                raise ValueError(f"names and values of HTTP headers, in ASCII and on one line, which {name!r} is not")
        return value


class Web(Section):
    """The page that `watcherd web` shows (docs/web.md); the service itself has no part in it."""

    address: str = "127.0.0.1"
    """Where it listens. One that other machines reach needs a password or a proxy."""
    port: Annotated[int, Field(gt=0, lt=65536)] = 8470
    password: SecretStr = SecretStr("")
    """For logging in; empty: a token that is made at first use."""
    hosts: tuple[str, ...] = ()
    """Names by which browsers may call it, besides the address and localhost."""
    proxy_header: str = ""
    """In which a proxy in front says who has logged in there; empty: there is none."""
    proxies: tuple[str, ...] = ("127.0.0.1",)
    """Addresses of that proxy: from nowhere else does its header count."""
    upload_mib: Positive = 512
    """Of all files that are dropped into the page at once."""
    cache_mib: Positive = 512
    """Of pictures that were made for the page, in the state folder; the ones that nobody looks at go first."""
    hide_names: bool = False
    """Jobs' numbers in place of names, as ``privacy.names`` = hidden does for everything."""

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            ip_address(value)
        except ValueError as error:
            raise ValueError('an IP address of this machine, "127.0.0.1" for itself alone') from error
        return value

    @field_validator("password")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and len(value.get_secret_value()) < SHORTEST_PASSWORD:
            raise ValueError(f'{SHORTEST_PASSWORD} characters or more; "" for a token that is made')
        return value

    @field_validator("hosts")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9.-]+", name):
                raise ValueError('names alone, without http:// and port: ["scans.example.org"]')
        return tuple(name.lower() for name in value)

    @field_validator("proxy_header")
    @classmethod
    def _is_a_header(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Za-z0-9-]+", value):
            raise ValueError('the name of a header, "X-Remote-User"; "" for none')
        return value

    @field_validator("proxies")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(str(ip_address(one)) for one in value)
        except ValueError as error:
            raise ValueError('IP addresses: ["127.0.0.1"]') from error

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not ip_address(self.address).is_loopback and not self.password.get_secret_value() and not self.proxy_header:
            raise ValueError(
                f"address = {self.address!r} can be reached from other machines: that needs web.password, or "
                "web.proxy_header for a proxy that asks who comes"
            )
        return self


class Cluster(Section):
    """Cards of other machines, through Ray (docs/cluster.md)."""

    engine: Literal["", "ray"] = ""
    """Empty: this machine alone."""
    address: str = "auto"
    """Of Ray's head, as HOST:PORT; auto: the cluster that a Ray on this machine belongs to."""
    local: bool = True
    """Use this machine's cards too."""
    ship_models: bool = False
    """Copy model folders to the nodes, once to each, checked by hash; else they lie there at the same paths."""
    token_file: Path | None = None
    """What all machines of the cluster know and nobody else; empty: cluster.token in the state folder."""

    @field_validator("token_file", mode="before")
    @classmethod
    def _none_when_empty(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if value != "auto" and not (colon and host and "/" not in host and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError('"auto", or the host and the port of Ray\'s head: "10.0.0.1:6380"')
        return value


class Profile(Section):
    """Settings for the scans under one folder of the inbox; what is left out is as for all."""

    folder: str
    model: str | None = None
    models: tuple[str, ...] | None = None
    """Several models that each compute every scan; the first one's results have the usual paths."""
    sidecar_models: tuple[str, ...] = ()
    threshold: Fraction | None = None
    outputs: tuple[Output, ...] | None = None
    prompt: str | None = None
    draft: str | None = None
    decode: Decode | None = None
    no_mask: Literal["fail", "empty"] | None = None
    tta: bool | None = None
    instances: bool | None = None
    group_frames: bool | None = None
    kind: Literal["auto", "fundus", "xray"] | None = None

    @property
    def computed_by(self) -> tuple[str, ...]:
        """The models that compute each scan, the one first whose results have the usual paths."""
        return self.models or (self.model or DEFAULT_MODEL,)

    @field_validator("folder")
    @classmethod
    def _inside(cls, value: str) -> str:
        parts = Path(value).parts
        if not parts or Path(value).is_absolute() or ".." in parts:
            raise ValueError('a folder below the inbox, for example "coronary"')
        return str(Path(*parts))


class Config(BaseSettings):
    """The whole configuration. `load` is the way to make one."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="WATCHERD_", env_nested_delimiter="__")

    inbox: Inbox = Inbox()
    outbox: Outbox = Outbox()
    state: StateFolder = StateFolder()
    model: Model = Model()
    models: dict[str, Model] = {}
    devices: Devices = Devices()
    limits: Limits = Limits()
    privacy: Privacy = Privacy()
    log: Log = Log()
    retention: Retention = Retention()
    metrics: Metrics = Metrics()
    hooks: Hooks = Hooks()
    web: Web = Web()
    cluster: Cluster = Cluster()
    profiles: dict[str, Profile] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings passes all by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return NamedInTheEnvironment(env_settings, init_settings), init_settings

    @model_validator(mode="after")
    def _models_apart(self) -> Self:
        seen = {DEFAULT_MODEL: f"the model of the table [model], which is called {DEFAULT_MODEL}"}
        for name in self.models:
            if not re.fullmatch(MODEL_NAME, name):
                raise ValueError(
                    f"models.{name}: a model is called by up to 40 letters, digits, - and _, of which the first is a "
                    "letter or a digit"
                )
            if (other := seen.get(plain_name(name))) is not None:
                raise ValueError(f"models.{name}: its name is also that of {other}")
            seen[plain_name(name)] = f"models.{name} (capitals count as small letters, and - as _)"
        return self

    @model_validator(mode="after")
    def _profiles_name_models(self) -> Self:
        for name, profile in self.profiles.items():
            if profile.model is not None and profile.models is not None:
                raise ValueError(
                    f"profiles.{name} has model = {profile.model!r} and models = {list(profile.models)}: which models "
                    "compute its scans is said by one of them; leave the other out"
                )
            if profile.models == ():
                raise ValueError(
                    f"profiles.{name}.models = []: no model would compute its scans; leave it out for {DEFAULT_MODEL!r}"
                )
            if doubled := [model for model, count in Counter(profile.computed_by).items() if count > 1]:
                raise ValueError(f"profiles.{name}.models names {doubled[0]!r} twice: a model computes a scan once")
            own = "model" if profile.models is None else "models"
            for key, models in {own: profile.computed_by, "sidecar_models": profile.sidecar_models}.items():
                if unknown := [model for model in models if model not in self.model_tables]:
                    raise ValueError(
                        f"profiles.{name}.{key} = {unknown[0]!r}: there is no such model; "
                        f"there are {', '.join(self.model_tables)}"
                    )
        return self

    @model_validator(mode="after")
    def _profiles_apart(self) -> Self:
        folders: dict[str, str] = {}
        for name, profile in self.profiles.items():
            if profile.folder in folders:
                raise ValueError(
                    f"profiles.{name}.folder = {profile.folder!r} is also that of {folders[profile.folder]}"
                )
            folders[profile.folder] = f"profiles.{name}"
        return self

    @property
    def cluster_token(self) -> Path:
        """The file with the cluster's token."""
        return self.cluster.token_file or self.state.path / "cluster.token"

    @property
    def model_tables(self) -> dict[str, Model]:
        """Every model by its name, that of the table ``[model]`` first."""
        return {DEFAULT_MODEL: self.model, **self.models}

    def model_called(self, name: str) -> Model:
        """The table of this model; of one that is gone, that of the default."""
        return self.models.get(name, self.model)

    def profile_of(self, source: str) -> tuple[str, Profile | None]:
        """The name and the settings for a path below the inbox: those of its deepest matching folder."""
        parts = Path(source).parts[:-1]
        best: tuple[str, Profile | None] = ("default", None)
        depth = 0
        for name, profile in self.profiles.items():
            folder = Path(profile.folder).parts
            if len(folder) > depth and parts[: len(folder)] == folder:
                best, depth = (name, profile), len(folder)
        return best

    def models_for(self, source: str) -> tuple[str, ...]:
        """The models that compute a scan at this path, the one first whose results have the usual paths."""
        _, profile = self.profile_of(source)
        return profile.computed_by if profile else (DEFAULT_MODEL,)

    @property
    def models_beside(self) -> frozenset[str]:
        """The models whose results lie in folders of their own, beside those of another one."""
        return frozenset(name for profile in self.profiles.values() for name in profile.computed_by[1:])

    def sidecar_models(self, source: str) -> tuple[str, ...]:
        """The models that a sidecar of a scan at this path may name, besides those that are its profile's."""
        _, profile = self.profile_of(source)
        return profile.sidecar_models if profile else ()

    def options_for(self, source: str, *, model: str | None = None) -> Options:
        """The options that a scan at this path below the inbox is frozen with.

        ``model``: the one that is to do it, if it is not the first of its profile.
        """
        name, profile = self.profile_of(source)
        no_options = {"folder", "model", "models", "sidecar_models"}
        chosen = profile.model_dump(exclude_none=True, exclude=no_options) if profile else {}
        called = model or (profile.computed_by[0] if profile else DEFAULT_MODEL)
        table = self.model_called(called)
        speaks = table.segmenter == "sa2va"
        looks = table.segmenter == "sam3"
        values: dict[str, Any] = {
            "threshold": table.threshold,
            "outputs": self.outbox.outputs,
            "prompt": table.sa2va.prompt if speaks else table.sam3.prompt if looks else "",
            "draft": table.sa2va.draft if speaks else "",
            "decode": table.sa2va.decode,
            "tta": table.tta,
            "instances": looks and table.sam3.instances,
        } | chosen
        values["outputs"] = tuple(sorted(set(values["outputs"])))
        return Options(profile=name, model=called, **values)
