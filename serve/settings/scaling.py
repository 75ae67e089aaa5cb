"""Settings of how many replicas there are and how much waits for them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ScalingSettings(BaseModel):
    """Autoscaling and the queue before the replicas."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_replicas: int | None = Field(
        default=None, ge=1, description="null keeps num_replicas; else num_replicas is the least"
    )
    target_ongoing_requests: float = Field(
        default=16.0, gt=0.0, description="requests in flight per replica that autoscaling aims at"
    )
    upscale_delay_s: float = Field(default=10.0, ge=0.0)
    downscale_delay_s: float = Field(default=300.0, ge=0.0)
    max_queued_requests: int = Field(
        default=1024, ge=1, description="requests that wait in each proxy when all replicas are full"
    )

    def replicas(self, num_replicas: int) -> dict[str, Any]:
        """Return what Ray Serve needs to know about the number of replicas."""
        if self.max_replicas is None:
            return {"num_replicas": num_replicas}
        return {
            "autoscaling_config": {
                "min_replicas": num_replicas,
                "max_replicas": max(self.max_replicas, num_replicas),
                "target_ongoing_requests": self.target_ongoing_requests,
                "upscale_delay_s": self.upscale_delay_s,
                "downscale_delay_s": self.downscale_delay_s,
            }
        }
