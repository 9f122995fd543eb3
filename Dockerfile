# One image, a command for each service:
#   python -m services.generator · python -m services.processor · tandem …
# Needs BuildKit (the builder of every supported engine). There is no "# syntax=" line on purpose: what is
# used here is in the frontend that the engine brings, and nothing is pulled but the one base image.

ARG PYTHON_IMAGE=python:3.13-slim-trixie

# ---- builder: the locked dependencies and the package, in an environment of their own ----------------
FROM ${PYTHON_IMAGE} AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# Without pip: nothing is ever installed into it after this stage.
RUN python -m venv --without-pip /opt/tandem

# The dependencies change seldom: a layer of their own. Every file is checked against the lock's hashes,
# and --only-binary keeps code of theirs from running while they are installed.
COPY requirements/runtime.txt /build/requirements/
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    pip --python /opt/tandem/bin/python install --require-hashes --only-binary :all: \
        --requirement /build/requirements/runtime.txt

# The build back end comes from the lock as well: its entry there, with its hashes, and nothing else.
COPY requirements/dev.txt /build/requirements/
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    awk '/^setuptools==/ {found = 1} found {print} found && !/\\$/ {exit}' \
        /build/requirements/dev.txt > /build/requirements/backend.txt && \
    python -m venv --without-pip /build/backend && \
    pip --python /build/backend/bin/python install --require-hashes --only-binary :all: \
        --requirement /build/requirements/backend.txt

# The slim images have no C compiler. This one is a package, and stays in this stage.
COPY requirements/compiler.txt /build/requirements/
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    pip --python /build/backend/bin/python install --require-hashes --only-binary :all: \
        --requirement /build/requirements/compiler.txt

COPY pyproject.toml README.md LICENSE /build/
COPY shared /build/shared
COPY services /build/services
RUN pip --python /build/backend/bin/python wheel --no-build-isolation --no-deps --no-index \
        --wheel-dir /build/wheels /build && \
    pip --python /opt/tandem/bin/python install --no-deps --no-index --no-cache-dir /build/wheels/*.whl

# baseline: for every processor of this architecture, not for the one that builds the image.
RUN /opt/tandem/bin/python -m services.processor.native.compile \
        --compiler "/build/backend/bin/python -m ziglang cc -mcpu=baseline"

# ---- what runs ---------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE}

ARG TANDEM_VERSION=0.1.0
ARG TANDEM_REVISION=unknown
LABEL org.opencontainers.image.title="tandem" \
      org.opencontainers.image.description="A generator of event streams and a processor that counts them exactly once" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${TANDEM_VERSION}" \
      org.opencontainers.image.revision="${TANDEM_REVISION}"

# No installer stays. The standard library is compiled here because nobody can write its bytecode later:
# the user may not, and the root file system is meant to be mounted read-only.
RUN python -m pip uninstall --yes --root-user-action=ignore pip && \
    library="$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" && \
    rm -rf "${library}/ensurepip" "${library}/idlelib" "${library}/turtledemo" && \
    python -m compileall -q -j 0 -x '/(site-packages|dist-packages|test|tests)/' "${library}" && \
    groupadd --gid 10001 tandem && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tandem

# Asks the one service of this container over its own HTTP port: HTTP_PORT where it is set, else the
# defaults of the generator, the processor and the console's page. Sockets and nothing else, so that a
# check costs 20 ms of a core. It asks for /livez, or for the path that it is handed.
COPY --chmod=0444 <<'PYTHON' /usr/local/lib/tandem/healthcheck.py
import os
import socket
import sys


def ask(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


def check(path: str) -> int:
    port = os.environ.get("HTTP_PORT")
    for candidate in [int(port)] if port else [8081, 8082, 8080]:
        try:
            head, _, body = ask(candidate, path).partition(b"\r\n\r\n")
        except OSError as error:
            print(f"port {candidate}: {error}")
        else:
            print(body.decode(errors="replace").strip())
            return 0 if head.split()[1:2] == [b"200"] else 1
    return 1


sys.exit(check(sys.argv[1] if len(sys.argv) > 1 else "/livez"))
PYTHON

COPY --from=builder /opt/tandem /opt/tandem

# Python is never run with -O: the Kafka client's state machine is made of asserts.
ENV PATH="/opt/tandem/bin:${PATH}" \
    PYTHONUNBUFFERED=1 \
    HTTP_HOST=0.0.0.0 \
    LOG_FORMAT=json

# Empty, and on Python's path: a topology of one's own is mounted here.
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["/usr/local/bin/python3", "-I", "-S", "/usr/local/lib/tandem/healthcheck.py"]
CMD ["tandem", "--help"]
