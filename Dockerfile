# watcherd in a container: docs/container.md. Debian with Python 3.11, which the libraries' versions were tested with.
ARG BASE=python:3.11-slim-bookworm

# The libraries, a layer of their own: it stays as it is while only watcherd changes.
FROM ${BASE} AS libraries
# cpu, or a version of CUDA as uv names it (cu130), or empty: what PyPI has, which is for GPUs.
ARG TORCH_BACKEND=cpu
RUN python3 -m venv /opt/watcherd \
    && python3 -m venv /opt/uv \
    && /opt/uv/bin/python -m pip install --no-cache-dir uv==0.13.9
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# Compiled here: where watcherd runs nothing is written.
RUN /opt/uv/bin/uv pip install --python /opt/watcherd/bin/python --no-cache --compile-bytecode \
    ${TORCH_BACKEND:+"--torch-backend=${TORCH_BACKEND}"} \
    --constraint constraints.txt --requirement pyproject.toml --extra seg --extra video --extra plots

FROM libraries AS package
COPY . .
RUN /opt/uv/bin/uv build --no-cache --wheel --out-dir /dist \
    && PYTHONPATH=/src /opt/watcherd/bin/python -m tools.shipped > /dist/config.toml

FROM ${BASE}
LABEL org.opencontainers.image.title="watcherd" org.opencontainers.image.licenses="Apache-2.0"
# dcmtk receives runs and sends segmentations (docs/pacs.md). Debian keeps one version of it and mends that, so none is
# named here. A machine-id would be the same in every container, and an outbox shall know one machine from another.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends dcmtk \
    && rm -rf /var/lib/apt/lists/* /etc/machine-id /var/lib/dbus/machine-id \
    && groupadd --gid 10001 watcherd \
    && useradd --uid 10001 --gid watcherd --no-create-home --home-dir /var/lib/watcherd --shell /usr/sbin/nologin watcherd \
    && install -d -o watcherd -g watcherd -m 2770 /srv/watcherd/inbox \
    && install -d -o watcherd -g watcherd -m 2750 /srv/watcherd/archive /srv/watcherd/outbox \
    && install -d -o watcherd -g watcherd -m 0750 /srv/watcherd/receiving /var/lib/watcherd /var/cache/watcherd
COPY --from=libraries /opt/watcherd /opt/watcherd
RUN --mount=type=bind,from=package,source=/dist,target=/dist \
    /opt/watcherd/bin/python -m pip install --no-cache-dir --no-deps --no-index /dist/*.whl \
    && install -D -m 644 /dist/config.toml /etc/watcherd/config.toml

# As in systemd/watcherd.service: compiled kernels outlive the container, no model hub is asked.
ENV PATH=/opt/watcherd/bin:$PATH \
    WATCHERD_CONFIG=/etc/watcherd/config.toml \
    HOME=/var/lib/watcherd \
    CUDA_CACHE_PATH=/var/cache/watcherd/cuda \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/watcherd/inductor \
    TRITON_CACHE_DIR=/var/cache/watcherd/triton \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    HF_HUB_OFFLINE=1
WORKDIR /srv/watcherd
USER 10001:10001
# Inbox, archive and outbox are in one volume: a scan is then renamed into the archive, and not copied.
VOLUME ["/srv/watcherd", "/var/lib/watcherd", "/var/cache/watcherd"]
# Loading a large model takes minutes (devices.load_seconds); meanwhile it is neither healthy nor unhealthy.
HEALTHCHECK --interval=30s --timeout=30s --start-period=30m --retries=3 CMD ["watcherd", "status", "--check"]
ENTRYPOINT ["watcherd"]
CMD ["run"]
