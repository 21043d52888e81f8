"""LoRA and cross-entropy only: fine-tuning that does nothing against forgetting."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor

from segp_cl.learn.distributed import StepLosses
from segp_cl.learn.strategies.shared import finish, gather
from segp_cl.learn.training import Inputs, Losses, Outcome, Session, train
from segp_cl.losses import task_cross_entropy


def learn_naive(session: Session) -> Outcome:
    """Minimise (15) alone. New prototypes are class means (23), old ones do not change."""
    adapters = session.adapt()
    inputs = session.inputs(adapters)
    with session.report.phase("train"):
        train(session, adapters, inputs, classification_step(session, inputs))
    lora = adapters.state()
    with session.report.phase("prototypes"):
        adapters.merge()
        return finish(session, gather(session, inputs, session.old.kept_sums), lora=lora)


def classification_step(session: Session, inputs: Inputs) -> StepLosses:
    """Return the losses of a step of (15) alone: only the task's own texts are encoded."""
    prompts = [c.prompt for c in session.task.classes]

    def step(batch: Float[Tensor, "batch ..."], targets: Int64[Tensor, " batch"], weight: float) -> Losses:
        images = session.model.project(inputs.raw_features(batch))
        loss = weight * task_cross_entropy(
            images,
            session.text_features(prompts),
            targets,
            logit_scale=session.model.logit_scale,
            log_prior=session.log_prior,
        )
        return {"total": loss, "classification": loss}

    return step
