"""Exponential moving average (EMA) of the weights, evaluated in place of the last ones."""

import logging

from detectron2.engine import HookBase
from timm.utils import ModelEmaV3
from torch import nn

from qiml.errors import CheckpointError

logger = logging.getLogger(__name__)


class WeightAverage(HookBase):
    """Keeps an average of weights and running statistics that follows the training, step by step.

    The average starts as the weights the training starts from, or as it was saved. Its decay rises from 0
    to `decay` in the first steps, so that the initial weights are soon forgotten. All workers hold the same.
    Register it before the hook that saves checkpoints.

    Args:
        model: being trained, not its distributed wrapper.
        decay: share of the average that a step keeps.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self.average = ModelEmaV3(model, decay=decay, use_warmup=True)
        self._restored = False

    @property
    def averaged_model(self) -> nn.Module:
        """The model with the average as its weights, in eval mode."""
        return self.average.module

    def before_train(self) -> None:
        if not self._restored:
            self.average.set(self.model)  # MODEL.WEIGHTS came after the constructor

    def after_step(self) -> None:
        self.average.update(self.model, step=self.trainer.iter + 1)

    def state_dict(self) -> dict:
        return self.averaged_model.state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        self.averaged_model.load_state_dict(state_dict)
        self._restored = True


def load_average(model: nn.Module, checkpoint: dict) -> None:
    """Give a model the averaged weights of a checkpoint; where it has none, say so and leave the model.

    Args:
        model: may lack parts that only training needs.
        checkpoint: what the checkpointer's `load` returned: all but the last weights, which the model has.

    Raises:
        CheckpointError: the averaged weights are not of this model.
    """
    try:
        average = checkpoint.get("trainer", {}).get("hooks", {}).get(WeightAverage.__qualname__)
        if average is not None:
            model.load_state_dict({name: average[name] for name in model.state_dict()})
            return
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            "MODEL.WEIGHTS",
            found=f"averaged weights that do not fit ({type(error).__name__}: {error})",
            expected="those of this config's model",
            mend="use the config the checkpoint was trained with, or set MODEL_EMA.ENABLED False",
        ) from error
    logger.warning(
        "The checkpoint has no averaged weights (MODEL_EMA): evaluating its last weights"
    )
