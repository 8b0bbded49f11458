"""A stage as a TrainJob of Kubeflow Trainer, on a cluster that the official client reaches.

    from tokenbuncher.training.cluster.run import run_stage
    run_stage(spec, "defend", {"data": data, "base": base}, out=out, identity=identity)

The inputs go to the storage, the nodes take them from there (`node` is what runs in the pods), train together and
publish the output, and the caller brings it back. Nothing is imported here: the nodes do without the client.
"""
