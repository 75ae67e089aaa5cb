"""A planted world for LLM Bandit: models with skills, prompts that ask for one, costs that follow skill."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from policies.llm_bandit.identity_vectors import Arms, ScoringNetwork
from policies.llm_bandit.irt_training import IrtSettings
from policies.llm_bandit.observations import Observations
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.llm_bandit.set_network import SetPolicyNetwork, SetShape
from policies.llm_bandit.set_policy import FrozenSetPolicy
from policies.outcome_model.features import ContextFeatures

TAU_USD = 0.01
DIMENSION = 8
SETTINGS = IrtSettings(
    components=DIMENSION,
    identity_dim=4,
    members=2,
    hidden=32,
    dropout=0.0,
    input_dropout=0.0,
    lr=1e-2,
    batch_size=128,
    epochs=25,
    loading_decay=0.1,
)


def world(n=900, n_models=6, seed=0):
    """Return observations of every pair and the true success probabilities, shape (n, K).

    Even models answer where the first coordinate is negative, odd ones elsewhere; later ones are better and dearer.
    """
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(n, DIMENSION)).astype(np.float32)
    side = np.where(np.arange(n_models) % 2 == 0, -1.0, 1.0)
    p = expit(2.5 * np.sign(embeddings[:, :1]) * side + np.linspace(-1.0, 1.0, n_models))
    scores = (rng.random(p.shape) < p).astype(np.float64)
    costs_usd = np.linspace(0.001, 0.008, n_models) * rng.uniform(0.8, 1.25, p.shape)
    ids = np.array([f"p{seed}-{i}" for i in range(n)])
    return Observations(ids, embeddings, np.full(n, 50.0), scores, costs_usd), p


def names(n_models):
    return tuple(f"m{k}" for k in range(n_models))


def prices(n_models):
    return np.full(n_models, 1e-6)


def random_router(n_models=6, *, new_models=0, head="arm", seed=0):
    """A router whose weights are drawn; the last ``new_models`` have posteriors twenty times as wide."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return 0.5 * rng.normal(size=shape).astype(np.float32)

    m, hidden, members = 4, 16, 2
    features = ContextFeatures(draw(DIMENSION), draw(DIMENSION, DIMENSION), 4.0, 1.0, 0.3)
    network = ScoringNetwork(
        features,
        draw(members, DIMENSION + 1, hidden),
        draw(members, 1, hidden),
        draw(members, hidden, 2),
        draw(members, 1, 2),
        draw(members, hidden, 2 * m),
        draw(members, 1, 2 * m),
        (1.2, -0.1),
        0.5,
        TAU_USD,
    )
    std = np.full((n_models, m), 0.05, dtype=np.float32)
    std[n_models - new_models :] = 1.0
    arms = Arms(
        names(n_models),
        2.0 * draw(n_models, m),
        std,
        np.log(np.linspace(0.0005, 0.004, n_models)),
        np.full(n_models, 0.4),
        np.full(n_models, 1.1),
        prices(n_models),
    )
    shape = SetShape(DIMENSION + 1, m, width=16, heads=2, blocks=1, head=head)
    return LlmBanditPolicy(network, arms, FrozenSetPolicy.of(SetPolicyNetwork.seeded(shape, seed)))
