"""Word-level distillation: the objective is cross-entropy with the mixture, and a run learns what its teachers know."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from typer.testing import CliRunner

from model import native
from model.checkpoint import load_checkpoint
from tests.conftest import write_checkpoint
from tokenizer.subword import TokenizerError, TokenizerPair, load_tokenizers
from training import objective, r_drop
from training.cli import app
from training.config import Recipe
from training.export import export
from training.fit_record import FitRecord
from training.loader import prepare_inputs
from training.objective import Prediction, Teaching, smoothed_cross_entropy
from training.prepare import make_tokenizers, open_tokenizers
from training.r_drop import r_drop_cross_entropy
from training.recipe_file import dump_recipe
from training.stop import Stop
from training.system import UnusableSystemError
from training.trainer import FitResult, Trainer, fit
from training.word_distillation import TEACHERS_FILE, WordDistillationError, load_taught

PAD, PIECES = 0, 13
MakeRecipe = Callable[..., Recipe]


class Batch:
    """Float64 features of two passes (2 * 3, 5, 4), output embeddings (13, 4), bias (13), teachers, padded targets."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)

        def draw(*shape: int, learns: bool = True) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=learns)

        self.features, self.weight, self.bias = draw(6, 5, 4), draw(PIECES, 4), draw(PIECES)
        self.targets = torch.randint(1, PIECES, (3, 5), generator=generator)
        self.targets[1, 2:] = PAD
        self.real = self.targets != PAD
        count = int(self.real.sum())
        self.teachers = tuple(
            Prediction(draw(count, width, learns=False), draw(PIECES, width, learns=False), draw(PIECES, learns=False))
            for width in (4, 6)
        )

    @property
    def learned(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.features, self.weight, self.bias

    def mixture(self, share: float, smoothing: float) -> Tensor:
        """The target distribution (N, V), written down as the module describes it."""
        theirs = [functional.linear(*teacher).softmax(dim=1) for teacher in self.teachers]
        reference = functional.one_hot(self.targets[self.real], PIECES) * (1 - smoothing) + smoothing / PIECES
        return (1 - share) * reference + share * sum(theirs) / len(theirs)

    def entropy(self, features: Tensor, wanted: Tensor) -> Tensor:
        """torch's own cross-entropy with a distribution."""
        logits = functional.linear(features[self.real], self.weight, self.bias)
        return functional.cross_entropy(logits, wanted, reduction="sum")


@pytest.fixture
def batch() -> Batch:
    return Batch()


def assert_same_loss(ours: Tensor, expected: Tensor, learned: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(ours, expected)
    gradients = (torch.autograd.grad(loss * 0.25, learned) for loss in (ours, expected))
    for mine, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("chunk", [1, 4, 512])
def test_it_is_cross_entropy_with_the_mixture(batch: Batch, share, smoothing, chunk, monkeypatch) -> None:
    monkeypatch.setattr(objective, "CHUNK", chunk)
    batch.features = batch.features[:3].detach().requires_grad_()
    teaching = Teaching(batch.teachers, share)
    loss = smoothed_cross_entropy(*batch.learned, batch.targets, smoothing=smoothing, pad=PAD, teaching=teaching)
    assert_same_loss(loss.smoothed, batch.entropy(batch.features, batch.mixture(share, smoothing)), batch.learned)
    alone = smoothed_cross_entropy(*batch.learned, batch.targets, smoothing=smoothing, pad=PAD)
    torch.testing.assert_close(loss.likelihood, alone.likelihood)  # of the references, so that runs compare


@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_with_r_drop_both_passes_learn_the_mixture(batch: Batch, chunk, monkeypatch) -> None:
    monkeypatch.setattr(r_drop, "CHUNK", chunk)
    teaching = Teaching(batch.teachers, 0.3)
    options = {"alpha": 2.0, "smoothing": 0.1, "pad": PAD}
    loss = r_drop_cross_entropy(*batch.learned, batch.targets, **options, teaching=teaching)
    plain = r_drop_cross_entropy(*batch.learned, batch.targets, **options)
    wanted, smoothed = batch.mixture(0.3, 0.1), batch.mixture(0.0, 0.1)
    change = sum(
        batch.entropy(features, wanted) - batch.entropy(features, smoothed) for features in batch.features.chunk(2)
    )
    assert_same_loss(loss.smoothed, plain.smoothed + change / 2, batch.learned)
    torch.testing.assert_close(loss.likelihood, plain.likelihood)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("passes", [1, 2])
def test_bfloat16_comes_near(batch: Batch, plain: bool, passes: int) -> None:
    """As autocast leaves features and teachers; by the operators and without."""

    def loss(features: Tensor, weight: Tensor, bias: Tensor, teachers: tuple[Prediction, ...]) -> Tensor:
        teaching, options = Teaching(teachers, 0.6), {"smoothing": 0.1, "pad": PAD}
        if passes == 1:
            return smoothed_cross_entropy(features, weight, bias, batch.targets, teaching=teaching, **options).smoothed
        return r_drop_cross_entropy(
            features, weight, bias, batch.targets, alpha=1.0, teaching=teaching, **options
        ).smoothed

    features = batch.features[: 3 * passes].detach()
    exact = [features.requires_grad_(), batch.weight, batch.bias]
    narrow = [each.detach().to(kind).requires_grad_() for each, kind in zip(exact, KINDS, strict=True)]
    narrow_teachers = tuple(Prediction(*(part.bfloat16() for part in teacher)) for teacher in batch.teachers)
    with native.set_aside() if plain else nullcontext():
        ours = loss(*narrow, narrow_teachers)
    theirs = loss(*exact, batch.teachers)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=0.01)
    gradients = (torch.autograd.grad(ours, narrow), torch.autograd.grad(theirs, exact))
    for mine, reference in zip(*gradients, strict=True):
        assert float((mine.double() - reference).norm() / reference.norm()) < 0.03


KINDS = (torch.bfloat16, torch.float32, torch.float32)  # features, weight, bias


def test_a_student_that_is_its_teacher_has_nothing_to_learn(batch: Batch) -> None:
    once = batch.features[:3].detach().requires_grad_()
    itself = Prediction(once[batch.real].detach(), batch.weight.detach(), batch.bias.detach())
    options = {"smoothing": 0.1, "pad": PAD, "teaching": Teaching((itself,), 1.0)}
    loss = smoothed_cross_entropy(once, batch.weight, batch.bias, batch.targets, **options)
    for gradient in torch.autograd.grad(loss.smoothed, (once, batch.weight, batch.bias)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.fixture(scope="module")
def teacher(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights and the tokenizer of the tiny recipes; wider than their models."""
    return write_checkpoint(tmp_path_factory.mktemp("teachers") / "one", open_tokenizers(prepared), "en", "de", seed=5)


@pytest.fixture(scope="module")
def second(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("teachers") / "two", open_tokenizers(prepared), "en", "de", seed=6)


def taught_by(*teachers: Path, share: float = 0.5) -> dict[str, object]:
    return {"word_distillation": {"teachers": [str(each) for each in teachers], "share": share}}


def run(recipe: Recipe, resume: bool = False) -> FitResult:
    return fit(recipe, resume=resume, run_folder=recipe.folder)


def test_a_run_learns_what_its_teachers_predict_and_not_its_references(
    recipe: MakeRecipe, teacher: Path, second: Path
) -> None:
    """With their share at one the student comes near the teachers, who know nothing of the references."""
    models = [load_checkpoint(each).model.eval() for each in (teacher, second)]
    distances = []
    for name, options in (("taught", taught_by(teacher, second, share=1.0)), ("alone", {})):
        made = recipe(name, max_steps=100, ema_decay=0.0, validate_every=100, **options)
        trainer = Trainer(made, made.folder)
        source, lengths, given, targets, _ = prepare_inputs(next(trainer.batches), pad=PAD)
        run(made)
        trainer.average.load_state_dict(load_best(made))
        with torch.no_grad():
            ours = trainer.average.eval().logits(trainer.average(source, lengths, given)).log_softmax(-1)
            theirs = sum(model.logits(model(source, lengths, given)).softmax(-1) for model in models) / 2
        real = targets != PAD
        distances.append(float(functional.kl_div(ours[real], theirs[real], reduction="batchmean")))
    assert distances[0] < 0.2 * distances[1]


def load_best(recipe: Recipe) -> dict[str, Tensor]:
    return load_file(recipe.folder / "best.safetensors")


def test_teachers_read_without_dropout_and_do_not_learn(recipe: MakeRecipe, teacher: Path) -> None:
    made = recipe(dropout=0.5, **taught_by(teacher))
    trainer = Trainer(made, made.folder)
    trainer.model.train()
    assert trainer.teachers is not None
    inputs = prepare_inputs(next(trainer.batches), pad=PAD)
    source, lengths, given, _, real = inputs
    first, again = (trainer.teachers.teach(source, lengths, given, real) for _ in range(2))
    assert torch.equal(first.predictions[0].features, again.predictions[0].features)
    assert not first.predictions[0].features.requires_grad
    names = {name for name, _ in trainer.loss.named_parameters()}
    assert names == {f"model.{name}" for name, _ in trainer.model.named_parameters()}


def test_a_resumed_run_goes_on_bit_equal(recipe: MakeRecipe, teacher: Path) -> None:
    options = {**taught_by(teacher), "dropout": 0.2, "save_every": 2}
    whole, broken = recipe("whole", **options), recipe("broken", **options)
    run(whole)
    trainer = Trainer(broken, broken.folder)
    trainer.begin()
    trainer.run(StopAfter(trainer, 4))
    run(broken, resume=True)
    for name in ("best", "last"):
        file = f"{name}.safetensors"
        assert (broken.folder / file).read_bytes() == (whole.folder / file).read_bytes(), name


class StopAfter(Stop):
    """A signal that comes in step ``step``."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        self._trainer, self._step = trainer, step

    @property
    def requested(self) -> bool:  # type: ignore[override]
        return self._trainer.progress.step + 1 >= self._step


def with_training(recipe: Recipe, **changes: object) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)})


def test_a_run_does_not_go_on_with_a_teacher_that_has_changed(
    recipe: MakeRecipe, teacher: Path, second: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(teacher, folder)
    made = recipe(**taught_by(folder))
    run(made)
    shutil.rmtree(folder)
    shutil.copytree(second, folder)
    with pytest.raises(
        WordDistillationError, match=r"began with the teachers en-de 0 \(seed 5\), now they are .*seed 6"
    ):
        run(made, resume=True)


def test_the_checkpoint_says_what_its_teachers_learned_from(recipe: MakeRecipe, teacher: Path, second: Path) -> None:
    made = recipe(**taught_by(teacher, second))
    FitRecord(**run(made)._asdict(), device="cpu").save(made.folder)
    exported = export(made, made.folder, "tiny.yaml", lambda _: None)
    assert exported.config.training.data[1:] == (
        "none: random weights [through en-de 0 (seed 5) and en-de 0 (seed 6)]",
    )
    assert "none: random weights [through" in (exported.folder / "README.md").read_text()


def test_a_later_run_without_teachers_forgets_them(recipe: MakeRecipe, teacher: Path) -> None:
    made = recipe(**taught_by(teacher))
    run(made)
    assert load_taught(made.folder) is not None
    run(with_training(made, word_distillation=None))
    assert not (made.folder / TEACHERS_FILE).exists()
    assert load_taught(made.folder) is None


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / TEACHERS_FILE).write_text("{}")
    with pytest.raises(WordDistillationError, match=r"teachers\.json is damaged"):
        load_taught(tmp_path)


def test_a_run_takes_the_tokenizer_of_its_teacher(recipe: MakeRecipe, tiny_checkpoint: Path) -> None:
    made = recipe(**taught_by(tiny_checkpoint))
    assert make_tokenizers(made, made.folder).files() == load_tokenizers(tiny_checkpoint).files()
    run(made)
    assert load_best(made)["output_bias"].shape == (380,)  # the teacher's, not the recipe's 300


def test_a_teacher_with_another_tokenizer_than_the_run_is_refused(recipe: MakeRecipe, tiny_checkpoint: Path) -> None:
    made = recipe(**taught_by(tiny_checkpoint))
    with pytest.raises(WordDistillationError, match=r"other tokenizers than en-de 0 \(seed 1\).*ferry-train tokenizer"):
        run(made)


def test_teachers_that_do_not_share_a_tokenizer_are_refused(
    recipe: MakeRecipe, teacher: Path, tiny_checkpoint: Path
) -> None:
    with pytest.raises(UnusableSystemError, match="system 2 has other tokenizers"):
        run(recipe(**taught_by(teacher, tiny_checkpoint)))


def test_a_teacher_of_another_language_is_refused(recipe: MakeRecipe, tiny_checkpoint_fr: Path) -> None:
    with pytest.raises(UnusableSystemError, match="translates en into fr; wanted is en into de"):
        run(recipe(**taught_by(tiny_checkpoint_fr)))


def test_vocabularies_must_be_joint_where_the_teachers_are(
    recipe: MakeRecipe, tiny_tokenizer: TokenizerPair, tiny_checkpoint: Path
) -> None:
    made = recipe(**taught_by(tiny_checkpoint))
    separate = made.model_copy(update={"tokenizer": made.tokenizer.model_copy(update={"joint": False})})
    with pytest.raises(TokenizerError, match=r"has one vocabulary; .* needs tokenizer\.joint: true"):
        make_tokenizers(separate, separate.folder)


def test_the_command_says_what_is_wrong_with_a_teacher(recipe: MakeRecipe, tmp_path: Path) -> None:
    made = recipe()
    (tmp_path / "tiny.yaml").write_text(dump_recipe(made))
    runner = CliRunner()
    chosen = f"training.word_distillation.teachers=[{tmp_path / 'absent'}]"
    missing = runner.invoke(app, ["run", str(tmp_path / "tiny.yaml"), "--set", chosen])
    assert missing.exit_code == 1
    assert re.search(r"word_distillation\.teachers: \S*absent is not a folder; a checkpoint is", missing.output)
    none = runner.invoke(app, ["run", str(tmp_path / "tiny.yaml"), "--set", "training.word_distillation.share=0.5"])
    assert none.exit_code == 1 and "training.word_distillation.teachers" in none.output
