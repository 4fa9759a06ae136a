# Trains: torch, transformers and PEFT for the CPU, CUDA or ROCm (VARIANT).
#   images/build cpu train
# For ROCm, torch has to be in the base image: the package index has no ROCm build.
ARG BASE=docker.io/library/python:3.11-slim-bookworm
ARG VARIANT=cpu

FROM ${BASE} AS packages
ARG VARIANT
ARG PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY images/requirements/train-${VARIANT}.txt /requirements.txt
RUN ["python3", "-s", "-P", "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--target", "/opt/packages", "-r", "/requirements.txt"]

FROM packages AS source
COPY images/metadata.py pyproject.toml /build/
COPY src/tuneyard /opt/source/tuneyard
RUN ["python3", "-s", "-P", "/build/metadata.py", "/build/pyproject.toml", "/opt/source"]
RUN ["python3", "-s", "-P", "-m", "compileall", "-q", "-j", "0", "/opt/source"]

FROM ${BASE} AS image
ARG VARIANT
LABEL org.opencontainers.image.title="tuneyard train" org.opencontainers.image.licenses="Apache-2.0"
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=packages /opt/packages /opt/packages
COPY images/interpreter.py images/torch_build.py /build/
RUN ["python3", "-s", "-P", "/build/interpreter.py"]
RUN ["python3", "-s", "-P", "/build/torch_build.py"]
COPY --from=source /opt/source /opt/source
USER 1000:1000
WORKDIR /work
CMD ["python", "-s", "-P", "-m", "tuneyard", "--help"]
