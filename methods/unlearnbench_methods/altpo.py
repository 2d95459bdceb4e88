"""altpo: prefer an alternative answer to the true one (AltPO, Mekala et al. 2024).

DPO with another plausible answer in the place of a refusal (section 3). The alternatives are
sampled from the model itself, asked for one by an instruction (section 3.1). A model that cannot
follow an instruction says what it memorised or nothing of sense; so a sample that is no other
answer is drawn anew, and where none of `draws` is one, a wrong answer of the same kind (edit target
`incorrect`) takes its place. How many were sampled is in the journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from unlearnbench import Around, Example, ForgetRequest, LanguageModel, Record
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import retain_nll
from unlearnbench_methods.training.preference import preference_term
from unlearnbench_methods.training.settings import RetainingConfig
from unlearnbench_methods.training.trainer import Objective


class AltPoConfig(RetainingConfig):
    beta: Annotated[float, Around(5)] = Field(0.1, gt=0, description="inverse temperature")
    alternatives: int = Field(1, ge=1, description="alternative answers for each forget item")
    instruction: str = Field(
        "{question}",
        description="what the model is asked for an alternative: the question, or a text around it "
        "for a model that follows instructions; {question} and {answer} are filled in",
    )
    temperature: float = Field(1.0, gt=0, description="of the sampled alternatives")
    draws: int = Field(4, ge=1, description="samples tried for each alternative")
    max_new_tokens: int = Field(64, ge=1, description="tokens of an alternative")


class AltPo(TrainedMethod[AltPoConfig]):
    """gamma times the DPO loss of (alternative over answer), with 2 / beta, + alpha NLL(retain)."""

    name = "altpo"
    version = "2"  # sampled alternatives are drawn otherwise since
    Config = AltPoConfig
    source = "arXiv:2409.13474"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        config = self.config
        preferred: list[Example] = []
        for number in range(config.alternatives):
            preferred += self._alternatives(model, request, request.seed * 1000 + number)
        refused = list(request.forget) * config.alternatives
        return Objective(
            preference_term(preferred, refused, config.beta, config.gamma),
            retain_nll(request.retain, config.alpha),
        )

    def _alternatives(
        self, model: LanguageModel, request: ForgetRequest, seed: int
    ) -> list[Example]:
        """An alternative answer for each forget item."""
        config, found = self.config, dict[int, str]()
        asked = [
            config.instruction.replace("{question}", e.prompt).replace("{answer}", e.answer)
            for e in request.forget
        ]
        for draw in range(config.draws):
            missing = [i for i in range(len(asked)) if i not in found]
            if not missing:
                break
            samples = model.generate(
                [asked[i] for i in missing],
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                seed=seed * 100 + draw,
            )
            for i, sample in zip(missing, samples, strict=True):
                if _is_other(sample, request.forget[i].answer):
                    found[i] = sample
        model.journal.append(
            Record(f"alternatives-{seed}", "sampling", "", {"sampled": len(found) / len(asked)})
        )
        instead: Sequence[str] = request.targets("incorrect") if len(found) < len(asked) else []
        return [
            replace(item, answer=found[i] if i in found else instead[i])
            for i, item in enumerate(request.forget)
        ]


def _is_other(sample: str, answer: str) -> bool:
    """Whether a sample is an answer, and more than half of its words are not the true one's."""
    words, true = sample.casefold().split(), set(answer.casefold().split())
    return sum(w not in true for w in words) * 2 > len(words)
