"""idk: learn to say that one does not know (IdkNLL; TOFU, Maini et al. 2024, section 3.2)."""

from __future__ import annotations

from dataclasses import replace

from unlearnbench import Example, ForgetRequest, LanguageModel
from unlearnbench_methods.training import losses
from unlearnbench_methods.training.method import TrainedMethod
from unlearnbench_methods.training.objective import forget_term, retain_nll
from unlearnbench_methods.training.settings import RetainingConfig
from unlearnbench_methods.training.trainer import Objective


class Idk(TrainedMethod[RetainingConfig]):
    """gamma NLL(refusal | forget prompt) + alpha NLL(retain). Each prompt keeps one refusal."""

    name = "idk"
    Config = RetainingConfig
    source = "arXiv:2401.06121"

    def objective(self, model: LanguageModel, request: ForgetRequest) -> Objective:
        return Objective(
            forget_term(
                refusals(request), lambda a: losses.nll(a.logprobs, a.mask), self.config.gamma
            ),
            retain_nll(request.retain, self.config.alpha),
        )


def refusals(request: ForgetRequest) -> list[Example]:
    """The forget prompts, each answered by a refusal."""
    refused = zip(request.forget, request.targets("idk"), strict=True)
    return [replace(item, answer=refusal) for item, refusal in refused]
