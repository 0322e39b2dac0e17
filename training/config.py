"""A recipe: everything that decides what a training run makes. Read from YAML by :mod:`training.recipe_file`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from model.config import Frozen, LengthPenalty, ModelConfig
from training.corpus_config import AugmentationConfig, CleaningConfig, CorpusConfig, SamplingConfig
from training.tune_config import Dimension

LANGUAGE = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$"


class DataConfig(Frozen):
    """Which text is learned from, which steers the run, and which only measures its result."""

    source: str = Field(pattern=LANGUAGE, description="BCP 47 tag of the language translated from.")
    target: str = Field(pattern=LANGUAGE, description="BCP 47 tag of the language translated into.")
    train: tuple[CorpusConfig, ...] = Field(min_length=1)
    dev: tuple[CorpusConfig, ...] = Field(min_length=1, description="Validation, early stopping and tuning.")
    test: tuple[CorpusConfig, ...] = Field((), description="Scored by evaluate and export only, one by one.")
    cleaning: CleaningConfig = CleaningConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    allow_overlap: bool = Field(False, description="Train although a dev or test pair stands in the training text.")
    drop_overlap: bool = Field(False, description="Leave training pairs out that stand in dev or test.")
    workers: int | None = Field(None, ge=1, description="Processes that clean and encode; default: the cores.")

    @model_validator(mode="after")
    def _one_answer_to_overlap(self) -> DataConfig:
        if self.allow_overlap and self.drop_overlap:
            raise ValueError(
                "allow_overlap and drop_overlap exclude each other; drop_overlap leaves the pairs out, "
                "allow_overlap learns from them"
            )
        return self


class TokenizerConfig(Frozen):
    """How text becomes pieces."""

    model_type: Literal["unigram", "bpe"] = "unigram"
    vocabulary_size: int = Field(8000, gt=260, description="Pieces, the 256 bytes and the reserved ids included.")
    joint: bool = Field(True, description="One vocabulary for both languages.")
    character_coverage: float = Field(0.9995, gt=0, le=1, description="Share of characters that get their own piece.")
    user_symbols: tuple[str, ...] = Field((), description="Pieces that are never split: placeholders, language tags.")
    sampling: SamplingConfig = SamplingConfig()
    sample_pairs: int = Field(500_000, ge=1, description="Training pairs learned from; a random sample of more.")


class ModelOptions(Frozen):
    """The fields of :class:`model.config.ModelConfig`, without the vocabularies, which the tokenizers decide.

    The defaults are what pays (training/README.md); those of the other are what a checkpoint means that does not say.
    """

    embedding: int = 256
    hidden: int = 256
    encoder_layers: int = 2
    decoder_layers: int = 2
    cell: Literal["rnn", "gru", "lstm", "peephole_lstm", "layernorm_lstm", "ssru"] = "lstm"
    attention: Literal["additive", "general", "dot", "multihead"] = "multihead"
    heads: int = 4
    self_attention: bool = False
    lexical_shortcut: bool = True
    input_feeding: bool = False
    tied: Literal["none", "target", "all"] = "all"
    layer_norm: bool = False
    residual: bool = False
    dropout: float = 0.2
    embedding_dropout: float = 0.2
    recurrent_dropout: float = 0.0
    word_dropout: float = 0.0

    def config(self, source_vocabulary: int, target_vocabulary: int) -> ModelConfig:
        """The model for these vocabularies. Raises ValidationError where the options contradict each other."""
        return ModelConfig(
            source_vocabulary=source_vocabulary, target_vocabulary=target_vocabulary, **self.model_dump()
        )


class EarlyStopping(Frozen):
    """Which validation figure names the best weights, and when the run gives up on a better one."""

    metric: Literal["bleu", "loss"] = "bleu"
    patience: int = Field(10, ge=1, description="Validations in a row without a better figure before the run ends.")


class WordDistillation(Frozen):
    """Teachers whose predictions the run learns beside the references (:mod:`training.word_distillation`)."""

    teachers: tuple[Path, ...] = Field(min_length=1, description="Checkpoints; the run takes their tokenizers.")
    share: float = Field(0.5, gt=0, le=1, description="Theirs of the target distribution; the rest is the reference's.")


class TrainingConfig(Frozen):
    """The optimisation."""

    batch_tokens: int = Field(4096, ge=1, description="Most padded tokens a batch: pairs x longest side.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients make one step.")
    max_steps: int = Field(20_000, ge=1)
    max_epochs: int | None = Field(None, ge=1, description="Ends the run early, if it is reached before max_steps.")
    learning_rate: float = Field(1e-3, gt=0, description="The highest, reached when the warm-up ends.")
    minimum_learning_rate: float = Field(0.0, ge=0, description="Where cosine and plateau end.")
    schedule: Literal["cosine", "inverse_sqrt", "plateau"] = "cosine"
    warmup_steps: int = Field(500, ge=0)
    plateau_factor: float = Field(0.5, gt=0, lt=1, description="plateau: what a drop multiplies the rate by.")
    plateau_patience: int = Field(2, ge=1, description="plateau: validations without a better figure before a drop.")
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the whole gradient.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled (AdamW).")
    betas: tuple[float, float] = (0.9, 0.98)
    ema_decay: float = Field(0.999, ge=0, lt=1, description="Exponential moving average of the weights; 0 is none.")
    nonfinite_patience: int = Field(
        10, ge=1, description="Skipped steps in a row, for a loss or gradient that is not finite, that end the run."
    )
    preflight: bool = Field(True, description="Try the largest possible batch before the first step.")
    r_drop: float = Field(0.0, ge=0, description="R-Drop's alpha, weight of the divergence of two passes; 0: one pass.")
    word_distillation: WordDistillation | None = Field(None, description="Learn teachers' predictions as well.")
    average_last: int = Field(
        0, ge=0, description="Try the mean of the weights at so many last validations when the run ends; 0: do not."
    )
    init_from: Path | None = Field(
        None, description="Checkpoint or run folder whose weights the run begins with, as far as they fit."
    )
    freeze: tuple[str, ...] = Field((), description="Patterns (* and ?) of the names of parameters that do not learn.")
    validate_every: int = Field(500, ge=1, description="Steps between validations.")
    save_every: int = Field(500, ge=1, description="Steps between saves of the training state.")
    early_stopping: EarlyStopping = EarlyStopping()
    samples: int = Field(4, ge=0, description="Dev sentences shown with their translation at each validation.")

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {list(self.betas)}; both must be at least 0 and below 1")
        if self.minimum_learning_rate > self.learning_rate:
            raise ValueError("minimum_learning_rate is above learning_rate; it must not be")
        return self


class TuningConfig(Frozen):
    """The grid of search options that export tries on dev: the best BLEU wins if it is better than the recipe's own
    by paired bootstrap, the smaller beam on a tie."""

    beam_sizes: tuple[int, ...] = Field((4, 5, 6), min_length=1)
    alphas: tuple[float, ...] = Field((0.6, 0.8, 1.0, 1.2), min_length=1)


class SearchConfig(Frozen):
    """How the finished model translates, in evaluation and by default in the service."""

    beam_size: int = Field(5, ge=1, le=64)
    length_penalty: LengthPenalty = LengthPenalty()
    token_budget: int = Field(8192, ge=1, description="Padded source tokens x beam searched at a time.")
    tuning: TuningConfig | None = Field(None, description="Choose beam_size and alpha on dev at export.")


class CardConfig(Frozen):
    """Text of the model card that no figure can write."""

    summary: str = "A translation model made with Ferry."
    attribution: str = Field("", description="Whom the data's licences ask to name.")
    strengths: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


class ShortlistConfig(Frozen):
    """The vocabulary shortlist that a checkpoint brings along, for a search that is to be faster."""

    size: int = Field(30, ge=1, description="Target pieces that a source piece allows: its likeliest translations.")
    frequent: int = Field(800, ge=0, description="So many of the most frequent target pieces are always allowed.")


class ExportConfig(Frozen):
    """The checkpoint that comes out."""

    folder: Path | None = Field(None, description="Default: the folder `checkpoint` of the run folder.")
    name: str | None = Field(None, description="Default: source-target, such as en-de.")
    version: str = "1"
    precision: Literal["float32", "float16"] = Field("float16", description="Of the stored weights.")
    licence: str = Field(description="Under which the checkpoint may be passed on.")
    card: CardConfig = CardConfig()
    shortlist: ShortlistConfig | None = Field(ShortlistConfig(), description="Learned from the training text; or null.")


class Recipe(Frozen):
    """One training run from text to checkpoint. Relative paths are relative to the working directory."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(1, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1, description="Threads that torch computes with; default: torch's own.")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="Of the matrix products.")
    folder: Path = Field(description="Run folder: tokenizers, encoded corpora, training state, curves, scores.")
    data: DataConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelOptions = ModelOptions()
    training: TrainingConfig = TrainingConfig()
    search: SearchConfig = SearchConfig()
    export: ExportConfig
    tune: dict[str, Dimension] = Field({}, description="What `ferry-train tune` tries: dotted key to its values.")

    @model_validator(mode="before")
    @classmethod
    def _default_folder(cls, values: object) -> object:
        if isinstance(values, dict) and "folder" not in values and "name" in values:
            return {**values, "folder": f"runs/{values['name']}"}
        return values

    @model_validator(mode="after")
    def _altered_text_has_a_place(self) -> Recipe:
        if self.data.augmentation.active and self.tokenizer.sampling.variants == 1:
            raise ValueError(
                "data.augmentation: sampled encodings are what it alters, and tokenizer.sampling.variants is 1, "
                "which means none; give 2 or more"
            )
        return self

    @model_validator(mode="after")
    def _model_can_be_built(self) -> Recipe:
        size = self.tokenizer.vocabulary_size
        try:
            self.model.config(size, size if self.tokenizer.joint else size + 1)
        except ValidationError as error:
            details = error.errors()[0]
            where = ".".join(["model", *map(str, details["loc"])])
            message = details["msg"].removeprefix("Value error, ")
            raise ValueError(f"{where}: {message[:1].lower()}{message[1:]}") from None
        return self
