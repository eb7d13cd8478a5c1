"""The laws give the numbers of their papers, and say what they mean by N."""

from __future__ import annotations

import math

import pytest

from archc.analysis.laws import hyperparameters, kaplan
from archc.analysis.laws.chinchilla import EPOCH, HOFFMANN_ROUNDED, HOFFMANN_TEX, Chinchilla
from archc.analysis.laws.conditional import CONDITIONAL_FITS, ONE_B, SMALL, Conditional, warnings
from archc.analysis.laws.law import Count
from archc.analysis.laws.named import DEFAULT, DENSE, NAMES, law_named
from archc.analysis.laws.routed import KRAJEWSKI_DENSE, clark, krajewski, ludziejewski, replicated_size
from archc.errors import ArchcError

# N, D, then the loss by Hoffmann's fit as printed, by its TeX source, and by Epoch's.
CHINCHILLA = [
    (70e9, 1.4e12, 1.9366, 1.9208, 1.9739),
    (280e9, 300e9, 1.9933, 1.9673, 1.9996),
    (8e9, 15e12, 1.9485, 1.9435, 2.0221),
    (1e9, 20e9, 2.5800, 2.5305, 2.5301),
]


@pytest.mark.parametrize(("n", "d", "rounded", "tex", "epoch"), CHINCHILLA)
def test_chinchilla(n: float, d: float, rounded: float, tex: float, epoch: float) -> None:
    assert HOFFMANN_ROUNDED.loss(n, d) == pytest.approx(rounded, abs=5e-5)
    assert HOFFMANN_TEX.loss(n, d) == pytest.approx(tex, abs=5e-5)
    assert EPOCH.loss(n, d) == pytest.approx(epoch, abs=5e-5)


@pytest.mark.parametrize(
    ("law", "exponent", "n", "d", "ratio"),
    [
        (HOFFMANN_ROUNDED, 0.4516, 32.2e9, 2.98e12, 92.6),
        (HOFFMANN_TEX, 0.4565, 40.3e9, 2.38e12, 59.1),
        (EPOCH, 0.5126, 72.3e9, 1.33e12, 18.4),
    ],
)
def test_the_optimum_for_chinchillas_compute(
    law: Chinchilla, exponent: float, n: float, d: float, ratio: float
) -> None:
    size, tokens = law.optimum(5.76e23)
    assert law.size_exponent == pytest.approx(exponent, abs=6e-5)
    assert (size, tokens) == (pytest.approx(n, rel=2e-3), pytest.approx(d, rel=2e-3))
    assert tokens / size == pytest.approx(ratio, rel=2e-3)


def test_the_tokens_for_a_size_are_those_of_its_optimum() -> None:
    for law in (EPOCH, HOFFMANN_TEX):
        size, tokens = law.optimum(1e22)
        assert law.tokens_for(size) == pytest.approx(tokens, rel=1e-9)


def test_only_epochs_fit_agrees_with_chinchilla_itself() -> None:
    assert DEFAULT == "epoch"
    ratios = {law.name: law.optimum(5.76e23) for law in (EPOCH, HOFFMANN_TEX, HOFFMANN_ROUNDED)}
    near = [name for name, (size, tokens) in ratios.items() if 10 < tokens / size < 40]
    assert near == ["epoch"]


def test_kaplan() -> None:
    assert kaplan.loss_of_size(1e9) == pytest.approx(2.3756, abs=5e-5)
    assert kaplan.loss_of_data(1e10) == pytest.approx(2.2624, abs=5e-5)
    assert kaplan.KAPLAN.loss(1e9, 22e9) == pytest.approx(2.3693, abs=5e-5)
    assert kaplan.loss_of_compute(3.1e8) == 1
    assert kaplan.critical_batch(1) == 2e8
    assert kaplan.KAPLAN.counts is Count.NON_EMBEDDING


# The paper's table: dense size, D, G, its loss; the law with N of the replicated feed-forward parts alone.
KRAJEWSKI = [
    (100e6, 4.37e9, 8, 3.133, 3.110),
    (1e9, 28.94e9, 16, 2.491, 2.471),
    (7e9, 137.6e9, 32, 2.076, 2.060),
    (70e9, 941e9, 32, 1.694, 1.680),
]


@pytest.mark.parametrize(("dense", "d", "g", "published", "expected"), KRAJEWSKI)
def test_krajewski_means_43_times_the_dense_size(
    dense: float, d: float, g: float, published: float, expected: float
) -> None:
    law = krajewski(g)
    loss = law.loss(replicated_size(dense), d)
    assert replicated_size(dense) == 43 * dense
    assert loss == pytest.approx(expected, abs=2e-3)
    assert loss / published == pytest.approx(0.992, abs=2e-3)
    assert law.loss(64 * dense, d) / published < 0.98


def test_krajewski_prefers_finer_experts_and_experts_at_all() -> None:
    losses = [krajewski(g).loss(43e9, 1e11) for g in (1, 2, 4, 8, 16)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] < KRAJEWSKI_DENSE.loss(1e9, 1e11)


def test_ludziejewski_falls_with_experts() -> None:
    losses = [ludziejewski(e).loss(1e9, 2e10) for e in (1, 2, 4, 8, 16, 32)]
    assert losses == pytest.approx([2.5777, 2.5587, 2.5352, 2.5088, 2.4814, 2.4546], abs=5e-5)
    assert "experimental" in ludziejewski(2).caveat


def test_clark_counts_one_expert_as_its_start_and_saturates() -> None:
    dense = 10 ** (-0.082 * 9 + (-0.108 + 0.009 * 9) * math.log10(1.847) + 1.104)
    assert clark(1).loss(1e9, 1) == pytest.approx(dense, rel=1e-12)
    losses = [clark(e).loss(1e8, 1) for e in (1, 8, 64, 512, 1e9)]
    assert losses == sorted(losses, reverse=True)
    assert clark(1e15).loss(1e8, 1) == pytest.approx(clark(1e18).loss(1e8, 1), rel=1e-9)


def test_hyperparameters() -> None:
    size, tokens = hyperparameters.deepseek_optimum(1e20)
    assert (size, tokens) == (pytest.approx(5.251e9, rel=1e-3), pytest.approx(1.905e10, rel=1e-3))
    assert size * tokens == pytest.approx(1e20, rel=2e-3)
    found = hyperparameters.deepseek(1e20)
    assert found.learning_rate == pytest.approx(9.86e-4, rel=1e-3)
    assert found.batch_tokens == pytest.approx(1.017e6, rel=1e-3)
    step = hyperparameters.step_law(1e9, 1e11)
    assert step.learning_rate == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)
    assert step.batch_tokens == pytest.approx(0.58 * 1e11**0.571)
    assert hyperparameters.deepseek_size(30, 4096, 4096) == 72 * 30 * 4096**2 + 12 * 30 * 4096 * 4096


# d_model, heads, KV heads, head_dim, d_ff, layers; then x, r, N in 1e9 and the raw products of both fits.
SHAPES = [
    ("llama_3_2_1b", 2048, 32, 8, 64, 8192, 16, 0.0657, 4.80, 0.9731, 1.01572, 1.00764),
    ("panda_1b", 2560, 72, 18, 64, 4096, 16, 0.0820, 1.07, 0.9752, 1.00284, 1.00125),
    ("surefire_1b", 2560, 36, 4, 64, 6144, 16, 0.0824, 3.60, 0.9647, 1.01145, 1.00542),
    ("llama_3_2_3b", 3072, 24, 8, 128, 8192, 28, 0.0579, 3.00, 2.8186, 1.01170, 1.00762),
    ("panda_3b", 4096, 36, 12, 128, 4096, 28, 0.0772, 1.00, 2.8186, 1.00286, 1.00085),
    ("surefire_3b", 4096, 42, 6, 128, 4096, 28, 0.0772, 1.00, 2.8186, 1.00286, 1.00085),
    ("panda_3b_of_1b", 4096, 33, 11, 128, 4608, 28, 0.0764, 1.23, 2.8773, 1.00310, 1.00060),
]


@pytest.mark.parametrize("row", SHAPES, ids=[row[0] for row in SHAPES])
def test_conditional_multipliers(row: tuple[str, int, int, int, int, int, int, *tuple[float, ...]]) -> None:
    _, d, heads, kv_heads, head_dim, d_ff, layers, x, r, n, small, one_b = row
    attention, mlp = 2 * d * head_dim * (heads + kv_heads), 3 * d * d_ff
    size = layers * (attention + mlp)
    assert size == pytest.approx(n * 1e9, abs=5e4 * 1.01)
    assert d / math.sqrt(size) == pytest.approx(x, abs=6e-5)
    assert mlp / attention == pytest.approx(r, abs=6e-3)
    for fit, raw in ((SMALL, small), (ONE_B, one_b)):
        multiplier = fit.multiplier(d / math.sqrt(size), mlp / attention)
        assert multiplier * fit.least == pytest.approx(raw, abs=6e-6)
        assert multiplier >= 1


@pytest.mark.parametrize(
    ("fit", "x", "r", "least"), [(SMALL, 0.0801, 1.032, 1.00282), (ONE_B, 0.0739, 1.216, 1.00054)]
)
def test_conditional_optimum_is_1_once_it_is_divided_by_its_least(
    fit: Conditional, x: float, r: float, least: float
) -> None:
    assert fit.optimum == (pytest.approx(x, abs=6e-5), pytest.approx(r, abs=6e-4))
    assert fit.least == pytest.approx(least, abs=6e-6)
    assert fit.multiplier(*fit.optimum) == pytest.approx(1, abs=1e-12)
    for step in (0.9, 1.1):
        assert fit.multiplier(fit.optimum[0] * step, fit.optimum[1]) > 1
        assert fit.multiplier(fit.optimum[0], fit.optimum[1] * step) > 1


def test_the_law_predicts_what_was_measured() -> None:
    """Panda-1B over LLaMA-3.2-1B: 0.9873 by the small models' fit, 2.782 / 2.803 measured."""
    panda, llama = (0.08198, 1.0667), (0.06565, 4.8)
    ratio = SMALL.multiplier(*panda) / SMALL.multiplier(*llama)
    assert ratio == pytest.approx(0.9873, abs=1e-4)
    assert ratio < 2.782 / 2.803 < 1


@pytest.mark.parametrize("r", [0.49, 5.01, -1, math.nan])
def test_conditional_law_refuses_ratios_that_it_was_not_fitted_on(r: float) -> None:
    with pytest.raises(ArchcError, match=r"fitted for MLP / attention parameters of 0\.5 to 5"):
        SMALL.multiplier(0.08, r)


def test_conditional_law_warns_outside_of_its_sizes() -> None:
    assert list(warnings(1e9, 100e9)) == []
    assert list(warnings(2.8186e9, 100e9)) == []
    assert "80M to 3B" in "".join(warnings(8e9, None))
    assert "tokens a parameter" in "".join(warnings(1e9, 15e12))


def test_every_name_is_a_law_with_a_source_and_a_meaning_of_n() -> None:
    for name in NAMES:
        law = law_named(name, experts=8, granularity=8)
        assert law.name == name
        assert "arXiv" in law.source
        assert law.loss(1e9, 2e10) > law.loss(2e9, 4e10) > 1
    assert {fit.name for fit in CONDITIONAL_FITS.values()} == set(CONDITIONAL_FITS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("epok", "did you mean `epoch`"),
        ("zzz", "the fits are epoch"),
        ("krajewski", "give --granularity"),
        ("clark", "give --experts"),
    ],
)
def test_unknown_fits_and_missing_numbers(name: str, message: str) -> None:
    with pytest.raises(ArchcError, match=message):
        law_named(name)


def test_warnings_name_what_is_extrapolated() -> None:
    inside, outside = list(EPOCH.warnings(1e9, 2e10)), list(EPOCH.warnings(70e9, 2e10))
    assert inside == []
    assert len(outside) == 1
    assert "4.32 times outside" in outside[0]
    assert all(not list(law.warnings(1e9, 2e10)) for law in DENSE.values())
