"""Serving models on an OpenAI-compatible endpoint: with vLLM where it is installed, else with our own server.

`python -m tuneyard.serving VALUES --workdir DIR` runs the server as a process, and `python -m tuneyard.serving.probe`
checks it; no other package uses this one. Nothing is imported here, since Kubernetes runs the probe every few seconds.
"""
