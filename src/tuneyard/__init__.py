"""Finetune a language model on your own machine or your own Kubernetes."""
