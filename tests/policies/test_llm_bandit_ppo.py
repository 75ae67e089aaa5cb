"""PPO of the set policy: the vector environment, the runner's batches, and that it learns."""

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from safetensors.torch import save_file

from policies.llm_bandit.contexts import DecisionTable, nearest_neighbours
from policies.llm_bandit.ppo import SetPpo, SetPpoConfig
from policies.llm_bandit.ppo_runner import ADVANTAGES, VALUE_TARGETS
from policies.llm_bandit.router_env import ARMS, INPUTS, MASK, PREFERENCES, RouterVectorEnv
from policies.llm_bandit.sampling import SetSampler
from policies.llm_bandit.set_network import SetPolicyNetwork, SetShape

P, M, K = 6, 4, 5
SHAPE = SetShape(P, M, width=16, head="arm")
SAMPLER = SetSampler(2, 4)


def table(n=400, seed=0, informative=True):
    """Model 0 is best where the first input is positive, model 1 elsewhere; predictions say the opposite."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, P)).astype(np.float32)
    paid = np.tile(np.float32([0.0, 0.0, 0.3, 0.3, 0.3]), (n, 1))
    right = inputs[:, 0] > 0
    paid[right, 0] = paid[~right, 1] = 1.0
    predicted = paid[:, [1, 0, 2, 3, 4]] if informative else paid
    costs = np.full((n, K), 0.1, np.float32)
    identity = np.eye(K, M, dtype=np.float32)
    return DecisionTable(
        inputs, identity, predicted, costs, paid, costs, np.ones((n, K), bool), nearest_neighbours(inputs, 3)
    )


def environment(data, num_envs=64, **kwargs):
    settings = {"preferences_per_set": 3, "normalisation": "tau", "seed": 0, **kwargs}
    return RouterVectorEnv(data, SAMPLER, num_envs=num_envs, **settings)


def test_neighbours_come_in_pairs_with_one_set_and_one_preference():
    observation, _ = environment(table()).reset()
    for name in (MASK, PREFERENCES):
        np.testing.assert_array_equal(observation[name][::2], observation[name][1::2])
    np.testing.assert_array_equal(observation[ARMS][::2, :, :M], observation[ARMS][1::2, :, :M])
    near = np.linalg.norm(observation[INPUTS][::2] - observation[INPUTS][1::2], axis=1).mean()
    far = np.linalg.norm(observation[INPUTS][::2] - observation[INPUTS][::2][::-1], axis=1).mean()
    assert near < 0.7 * far


def test_a_step_pays_what_the_table_says():
    data = table()
    env = environment(data)
    observation, _ = env.reset(seed=3)
    actions = np.random.default_rng(0).integers(0, observation[MASK].sum(axis=1)[:, None], (64, 3))
    paid = env.pay(actions)
    # Inputs are unique: they tell the prompt; the identity tells the model.
    row = np.array([np.flatnonzero((data.inputs == x).all(axis=1))[0] for x in observation[INPUTS]])
    for i in range(64):
        for j, a in enumerate(actions[i]):
            identity = observation[ARMS][i, a, :M]
            model = int(identity.argmax()) if identity.any() else K - 1
            assert paid.score[i, j] == data.paid_scores[row[i], model]
    _, reward, ended, cut, _ = env.step(actions)
    w = observation[PREFERENCES]
    expected = (w[..., 0] * paid.score - w[..., 1] * paid.cost_term).mean(axis=1)
    np.testing.assert_allclose(reward, expected, rtol=1e-6)
    assert ended.all()
    assert not cut.any()


def test_models_without_an_outcome_are_no_candidates():
    data = table()
    available = data.available.copy()
    available[:, 2] = False
    env = environment(DecisionTable(**{**vars(data), "available": available}))
    observation, _ = env.reset()
    chosen = observation[ARMS][observation[MASK]][:, :M]
    assert not (chosen[:, 2] == 1.0).any()


def test_an_odd_number_of_prompts_makes_no_pairs():
    with pytest.raises(ValueError, match="must be even"):
        environment(table(), num_envs=3)


def build(folder, data, *, weights=None, mixup_alpha=0.2, sets=64, **training):
    if not (folder / "t").exists():
        data.write(folder / "t")
    config = (
        SetPpoConfig()
        .debugging(seed=0)
        .router(folder / "t", SHAPE, SAMPLER, sets_per_iteration=sets, preferences_per_set=4, weights=weights)
        .training(mixup_alpha=mixup_alpha, minibatch_size=32, **training)
    )
    return config.build_algo()


def sample(algorithm):
    return algorithm.env_runner.sample()[DEFAULT_MODULE_ID]


@pytest.fixture(scope="module")
def plain(ray_session, tmp_path_factory):
    algorithm = build(tmp_path_factory.mktemp("plain"), table(), mixup_alpha=0.0)
    yield algorithm
    algorithm.stop()


def test_advantages_are_the_weighted_reward_beyond_the_value(plain):
    batch = sample(plain)
    network = plain.network()
    obs = {name: torch.from_numpy(values) for name, values in batch[Columns.OBS].items()}
    with torch.inference_mode():
        logits, values = network(obs[INPUTS], obs[ARMS], obs[MASK].bool(), obs[PREFERENCES])
    log_pi = torch.log_softmax(logits, 2).gather(2, torch.from_numpy(batch[Columns.ACTIONS])[..., None])[
        ..., 0
    ]
    np.testing.assert_allclose(batch[Columns.ACTION_LOGP], log_pi, atol=1e-5)
    target = torch.from_numpy(batch[VALUE_TARGETS])
    mean_advantage = batch[ADVANTAGES].mean(axis=1)
    # All costs are 0.1 here, so only scores differ between a set's decisions.
    np.testing.assert_allclose(target[:, 1], 0.1, rtol=1e-5)
    same_w = np.isclose(np.ptp(batch[Columns.OBS][PREFERENCES][..., 0], axis=1), 0.0, atol=0.05)
    w = batch[Columns.OBS][PREFERENCES].mean(axis=1)
    expected = (
        w[:, 0] * (target[:, 0] - values[:, 0]).numpy() - w[:, 1] * (target[:, 1] - values[:, 1]).numpy()
    )
    np.testing.assert_allclose(mean_advantage[same_w], expected[same_w], atol=0.1)


def test_without_mixup_inputs_are_those_of_prompts(plain):
    known = {row.tobytes() for row in table().inputs}
    assert all(row.tobytes() in known for row in sample(plain)[Columns.OBS][INPUTS])


def test_mixup_stays_between_neighbours(ray_session, tmp_path):
    data = table()
    algorithm = build(tmp_path, data, mixup_alpha=0.2)
    try:
        mixed = sample(algorithm)[Columns.OBS][INPUTS]
    finally:
        algorithm.stop()
    known = {row.tobytes() for row in data.inputs}
    new = [row for row in mixed if row.tobytes() not in known]
    assert len(new) > 10
    nearest = np.linalg.norm(mixed[:, None] - data.inputs[None], axis=2).min(axis=1)
    longest = np.linalg.norm(data.inputs[:, None] - data.inputs[data.neighbours], axis=2).max()
    assert nearest.max() <= longest / 2 + 1e-5


def test_ppo_learns_against_wrong_predictions(ray_session, tmp_path):
    """Predicted scores are swapped between models 0 and 1: only rewards can tell."""
    algorithm = build(tmp_path, table(), sets=128, lr=1e-2, num_epochs=4, entropy_coeff=0.0)
    try:
        first = [algorithm.train()["reward"] for _ in range(3)]
        for _ in range(20):
            algorithm.train()
        last = [algorithm.train()["reward"] for _ in range(3)]
    finally:
        algorithm.stop()
    assert np.mean(last) > np.mean(first) + 0.1


def test_training_starts_from_the_given_weights(ray_session, tmp_path):
    network = SetPolicyNetwork.seeded(SHAPE, 7)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    algorithm = build(tmp_path, table(), weights=tmp_path / "w.safetensors")
    try:
        first = algorithm.network().state_dict()
    finally:
        algorithm.stop()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(first[name], value)


def test_a_table_is_read_as_it_was_written(tmp_path):
    data = table()
    data.write(tmp_path / "t")
    read = DecisionTable.open(tmp_path / "t")
    for name, values in vars(data).items():
        np.testing.assert_array_equal(getattr(read, name), values)


def test_the_default_configuration_is_its_own():
    assert isinstance(SetPpo.get_default_config(), SetPpoConfig)
