# Serves with vLLM: its CPU build, or vLLM's own image for CUDA and ROCm with Tuneyard added.
#   images/build cpu serve
ARG BASE=docker.io/library/python:3.11-slim-bookworm
ARG VARIANT=cpu
ARG VLLM_CUDA=docker.io/vllm/vllm-openai:v0.32.0
ARG VLLM_ROCM=docker.io/vllm/vllm-openai-rocm:v0.32.0

FROM ${BASE} AS packages
ARG PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY images/requirements/serve-cpu.txt /requirements.txt
RUN ["python3", "-s", "-P", "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--target", "/opt/packages", "-r", "/requirements.txt"]

FROM ${BASE} AS source
COPY images/metadata.py pyproject.toml /build/
COPY src/tuneyard /opt/source/tuneyard
RUN ["python3", "-s", "-P", "/build/metadata.py", "/build/pyproject.toml", "/opt/source"]

FROM ${BASE} AS cpu
# vLLM's CPU build needs libnuma but no compiler.
# hadolint ignore=DL3008
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*
ENV VLLM_CPU_KVCACHE_SPACE=1
COPY --from=packages /opt/packages /opt/packages
COPY images/interpreter.py /build/interpreter.py
RUN ["python3", "-s", "-P", "/build/interpreter.py"]

FROM ${VLLM_CUDA} AS cuda
ENV PYTHONPATH=/opt/source
COPY images/requirements/beside-vllm.txt /requirements.txt
RUN ["python3", "-s", "-P", "-m", "pip", "install", "--no-cache-dir", "--quiet", "--require-hashes", "--no-deps", "-r", "/requirements.txt"]

FROM ${VLLM_ROCM} AS rocm
ENV PYTHONPATH=/opt/source
COPY images/requirements/beside-vllm.txt /requirements.txt
RUN ["python3", "-s", "-P", "-m", "pip", "install", "--no-cache-dir", "--quiet", "--require-hashes", "--no-deps", "-r", "/requirements.txt"]

# hadolint ignore=DL3006
FROM ${VARIANT} AS image
LABEL org.opencontainers.image.title="tuneyard serve" org.opencontainers.image.licenses="Apache-2.0"
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=source /opt/source /opt/source
USER 1000:1000
WORKDIR /work
ENTRYPOINT []
CMD ["python", "-s", "-P", "-m", "tuneyard", "--help"]
