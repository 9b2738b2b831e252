"""Averaged weights of checkpoints."""

import numpy as np


def average_checkpoints(checkpoints):
    """Averages the weights after each of the latest epochs.

    These are as many as are kept (`keep_checkpoints` of the trainer), not
    counting an earlier best.

    Args:
        checkpoints: a `diffstride.training.checkpoint_files.Checkpoints`.

    Returns:
        `(arrays, state, steps)`: the latest of these checkpoints, with the mean
        of the weights, and the steps of all of them; None where there is none.

    References:
        - Gong et al., [PSLA: improving audio tagging with pretraining,
          sampling, labeling, and aggregation](
          https://arxiv.org/abs/2102.01243), 2021, section III-F.
    """
    steps = checkpoints.epoch_ends()[-checkpoints.keep :]
    if not steps:
        return None
    arrays, state = checkpoints.load(steps[-1])
    weights = {
        name: np.zeros(array.shape, "float64")
        for name, array in arrays.items()
        # The state of random generators has no mean.
        if name.startswith("model/") and array.dtype.kind == "f"
    }
    for step in steps:
        others, _ = checkpoints.load(step)
        for name in weights:
            weights[name] += others[name] / len(steps)
    for name, mean in weights.items():
        arrays[name] = mean.astype(arrays[name].dtype)
    return arrays, state, steps
