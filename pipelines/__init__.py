"""Kubeflow pipelines, composed of the components."""
