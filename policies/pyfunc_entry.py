"""What MLflow runs to rebuild the registered model from code (no pickle); executed by MLflow, never imported."""

from mlflow.models import set_model

from policies.pyfunc import RouterModel

set_model(RouterModel())
