# The image that sessions of the `docker` driver run in: Python, what code imports, and the agent. Nothing in it is secret,
# and nothing of it can be written at run time. From the top of the repository:
#
#   make sandbox-image        or: docker build -f deploy/sandbox.Dockerfile -t afarensis-sandbox:<version> .
#
# BASE_IMAGE: any image with glibc and a Python 3.11 or newer that has venv.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /build
COPY requirements/guest.txt ./
RUN python3 -m venv /opt/afarensis/python \
    && /opt/afarensis/python/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r guest.txt \
    && /opt/afarensis/python/bin/python -m pip uninstall --quiet --yes pip setuptools
# What `sandbox/agent/sources.py` lists, at the same places below one directory.
COPY server/afarensis_server/sandbox/agent /opt/afarensis/afarensis_sandbox/agent
COPY server/afarensis_server/sandbox/guest /opt/afarensis/afarensis_sandbox/guest
COPY server/afarensis_server/sandbox/observing /opt/afarensis/afarensis_sandbox/observing
COPY server/afarensis_server/sandbox/zygote /opt/afarensis/afarensis_sandbox/zygote
RUN /opt/afarensis/python/bin/python -m compileall -q /opt/afarensis/afarensis_sandbox

FROM ${BASE_IMAGE}
ARG VERSION=unknown
ARG SOURCES=unknown
# The driver refuses an image that was made of other sources than its own.
LABEL org.opencontainers.image.title="Afarensis sandbox" \
      org.opencontainers.image.version="${VERSION}" \
      afarensis.sources="${SOURCES}"
RUN echo 'sandbox:x:1000:' >> /etc/group \
    && echo 'sandbox:x:1000:1000::/tmp:/usr/sbin/nologin' >> /etc/passwd \
    && mkdir -p /mnt/data /mnt/inputs
COPY --from=build /opt/afarensis /opt/afarensis
USER 1000:1000
WORKDIR /mnt/data
ENTRYPOINT ["/opt/afarensis/python/bin/python", "-I", "-B", "-c", "import sys; sys.path.append('/opt/afarensis'); from afarensis_sandbox.agent.main import main; main()"]
