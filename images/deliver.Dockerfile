# Delivers models and data: the command line, the store and Hub clients, and `datasets` for dataScripts. No torch.
#   images/build cpu deliver
ARG BASE=docker.io/library/python:3.11-slim-bookworm
ARG VARIANT=cpu

FROM ${BASE} AS packages
ARG VARIANT
ARG PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY images/requirements/deliver.txt /requirements.txt
RUN ["python3", "-s", "-P", "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--target", "/opt/packages", "-r", "/requirements.txt"]

FROM packages AS source
COPY images/metadata.py pyproject.toml /build/
COPY src/tuneyard /opt/source/tuneyard
RUN ["python3", "-s", "-P", "/build/metadata.py", "/build/pyproject.toml", "/opt/source"]
RUN ["python3", "-s", "-P", "-m", "compileall", "-q", "-j", "0", "/opt/source"]

FROM ${BASE} AS image
LABEL org.opencontainers.image.title="tuneyard deliver" org.opencontainers.image.licenses="Apache-2.0"
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=packages /opt/packages /opt/packages
COPY images/interpreter.py /build/interpreter.py
RUN ["python3", "-s", "-P", "/build/interpreter.py"]
COPY --from=source /opt/source /opt/source
USER 1000:1000
WORKDIR /work
CMD ["python", "-s", "-P", "-m", "tuneyard", "--help"]
