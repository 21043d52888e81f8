"""Models of the JSON about corrections."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.json_body import Text
from app.schemas import MAX_LABEL_LENGTH
from app.serving.answer_ids import MAX_LENGTH
from exchange.corrections import Correction


class CorrectionFields(BaseModel):
    """What a correction says besides its image."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(min_length=1, max_length=MAX_LABEL_LENGTH, description="The right class.")
    new_class: bool = Field(False, description="Whether `label` is to become a class, if it is none yet.")
    taught_as: str | None = Field(
        None, max_length=MAX_LABEL_LENGTH, description="The class that this image was taught as, by a wrong label."
    )
    answer_id: str | None = Field(
        None, max_length=MAX_LENGTH, description="The `id` of the answer, in place of the next three fields."
    )
    answered: str | None = Field(
        None, max_length=MAX_LABEL_LENGTH, description="What it was answered. Default: what it is answered now."
    )
    probability: float | None = Field(None, ge=0, le=1, description="The probability of that answer.")
    answered_by: str | None = Field(None, max_length=100, description="The version that answered.")
    reason: str = Field("", max_length=1000, description="Why; kept until the correction is learned.")

    @model_validator(mode="after")
    def _told_once(self) -> Self:
        if self.answer_id is not None and (self.answered, self.probability, self.answered_by) != (None,) * 3:
            raise ValueError("answer_id says what was answered; leave answered, probability and answered_by out")
        return self


class CorrectionBody(CorrectionFields):
    """A correction as JSON."""

    image: Text = Field(description="The image in base64.")


class CorrectionView(BaseModel):
    """A correction that waits to be learned, without its image."""

    number: int
    label: str
    new_class: bool = Field(description="Whether `label` becomes a class by it.")
    taught_as: str | None
    answered: str | None
    probability: float | None
    answered_by: str | None
    reason: str
    corrected_by: str
    at: datetime
    expires_at: datetime = Field(description="When it is removed if it was not learned.")
    bytes: int

    @classmethod
    def of(cls, kept: Correction, *, kept_s: float) -> CorrectionView:
        """Return what clients see of it."""
        shared = kept.model_dump(exclude={"prompt", "sha256", "size"})
        expires_at = kept.at + timedelta(seconds=kept_s)
        return cls(**shared, new_class=kept.prompt is not None, expires_at=expires_at, bytes=kept.size)


class CorrectionList(BaseModel):
    """The corrections that wait, the oldest first."""

    corrections: list[CorrectionView]
    bytes: int = Field(description="Of their images together.")
    learned_at_count: int | None = Field(description="So many are learned by themselves; null: never by their number.")
    learned_after_s: float | None = Field(
        description="Seconds after which the oldest has all learned; null: never by their age."
    )


class CorrectionsRemoved(BaseModel):
    """How many corrections were removed."""

    removed: int


class CorrectionsAccepted(BaseModel):
    """The job that will learn the corrections."""

    job_id: str
    location: str = Field(examples=["/v1/jobs/5f0c1b1f6e1e4c2b9d0b8f0f6a3c2d10"])
    corrections: int
