"""The one beam search: steppable, over a changing set of sentences.

``admit`` puts sentences in, ``step`` advances all of them by one piece, or by several where the model can, and returns
those that are decided, ``cancel`` takes sentences out, ``interrupt`` does so with the best that they have. A sentence's
result does not depend on the others, their order, or when it was admitted.

The algorithm, for one sentence with beam size k (the oracle in ``tests/model`` is the same in plain numpy):

1. Begin with one hypothesis, begin-of-sentence, of log-probability 0.
2. Extend every live hypothesis by every piece and rank the extensions by log-probability; of equal ones the extension
   of the better hypothesis comes first, then the smaller id. Those among the best k that end in end-of-sentence are
   finished; the best k of the others live on.
3. At the length limit only end-of-sentence may follow. While a forced prefix lasts only its next piece may follow.
4. Stop after the step in which the k-th hypothesis finishes (as fairseq does; Ott et al. 2019), so that a beam of 1 is
   greedy search, or when none lives on.
5. Finished hypotheses are ranked by ``log-probability / penalty(length)``, equal ones in the order in which they
   finished; the n best are the result.

A hypothesis's log-probability is the float32 sum, piece by piece, of the float32 ``log_softmax`` of the logits over all
pieces, whatever precision the model computes in; that sum is what is ranked. With a shortlist the pieces outside it
have the logit minus infinity.

Stopping comes earlier where the result is already certain. As log-probabilities only fall and the penalty only grows,
``log-probability / penalty(limit + 1)`` bounds what a live hypothesis can become; once that is not above the n-th best
finished score, nothing can change. So early stopping is exact.
"""

from model.search.annotation import Annotation, annotate
from model.search.beam_search import STRIDE, BeamSearch
from model.search.offline import translate
from model.search.options import SearchOptions
from model.search.sentence import Finished, Hypothesis

__all__ = ["STRIDE", "Annotation", "BeamSearch", "Finished", "Hypothesis", "SearchOptions", "annotate", "translate"]
