"""Items of two reporting checklists, paraphrased, and the answer that each takes.

CLAIM, 2024 update: Tejani et al. 2024, Radiology: Artificial Intelligence 6(4):e240300,
doi:10.1148/ryai.240300. TRIPOD+AI: Collins et al. 2024, BMJ 385:e078378,
doi:10.1136/bmj-2023-078378 (CC BY 4.0). The wording that counts is theirs.
"""

from __future__ import annotations

from typing import NamedTuple

from oct_jax.reports.sheet import data, model, results
from oct_jax.reports.sheet.answer import Fill


class Item(NamedTuple):
    """One item.

    Attributes:
      number: in the checklist.
      section: that it stands in.
      asks: in our words.
      answer: from the facts of a run; None where only people can answer.
    """

    number: str
    section: str
    asks: str
    answer: Fill | None = None


CLAIM: tuple[Item, ...] = (
    Item("1", "Title, abstract", "names the study as one of AI; technology", model.technology),
    Item("2", "Title, abstract", "summary of design, methods, results and conclusions"),
    Item("3", "Introduction", "background; what the AI is for and its role", model.role),
    Item("4", "Introduction", "aims, objectives and hypotheses"),
    Item("5", "Study design", "prospective or retrospective"),
    Item("6", "Study design", "goal of the study", model.goal),
    Item("7", "Data", "where the data come from", data.sources),
    Item("8", "Data", "criteria of inclusion and exclusion", data.exclusion),
    Item("9", "Data", "preprocessing", model.preprocessing),
    Item("10", "Data", "which part of the data was selected", data.subset),
    Item("11", "Data", "how data were de-identified"),
    Item("12", "Data", "how missing data were handled", data.missing),
    Item("13", "Data", "how images were acquired", data.acquisition),
    Item("14", "Reference standard", "how the reference standard was obtained", data.labels),
    Item("15", "Reference standard", "why this reference standard"),
    Item("16", "Reference standard", "who annotated, with what qualification"),
    Item("17", "Reference standard", "how the test set was annotated"),
    Item("18", "Reference standard", "variability between and within readers"),
    Item("19", "Data partitions", "how data were assigned to partitions", data.partitions),
    Item("20", "Data partitions", "level at which partitions are disjoint", data.disjoint),
    Item("21", "Testing data", "intended sample size"),
    Item("22", "Model", "the model in detail", model.model),
    Item("23", "Model", "software and versions", model.software),
    Item("24", "Model", "how parameters were initialised", model.weights),
    Item("25", "Training", "how the model was trained", model.training),
    Item("26", "Training", "how the final model was chosen", model.selection),
    Item("27", "Training", "ensembles", model.ensemble),
    Item("28", "Evaluation", "metrics of performance", results.metrics),
    Item("29", "Evaluation", "measures of significance and uncertainty", results.uncertainty),
    Item("30", "Evaluation", "robustness or sensitivity", results.robustness),
    Item("31", "Evaluation", "explainability", results.heatmaps),
    Item("32", "Evaluation", "evaluation on internal data", results.internal),
    Item("33", "Evaluation", "testing on external data", results.external),
    Item("34", "Evaluation", "registration of a clinical trial"),
    Item("35", "Results", "numbers of patients or examinations included and excluded", data.flow),
    Item(
        "36",
        "Results",
        "demographic and clinical characteristics by partition",
        data.characteristics,
    ),
    Item("37", "Results", "performance with its uncertainty", results.performance),
    Item("38", "Results", "diagnostic performance and its precision", results.diagnostic),
    Item("39", "Results", "analysis of failures", results.failures),
    Item("40", "Discussion", "limitations", results.limitations),
    Item("41", "Discussion", "what follows for practice", model.practice),
    Item("42", "Other", "full protocol, or further technical details", model.protocol),
    Item("43", "Other", "availability of software, model and data", model.availability),
    Item("44", "Other", "funding and the funders' role"),
)

TRIPOD_AI: tuple[Item, ...] = (
    Item("1", "Title", "development or evaluation, target population, outcome", model.technology),
    Item("2", "Abstract", "abstract, by the list for abstracts"),
    Item(
        "3a",
        "Introduction",
        "context of care, diagnostic or prognostic, existing models",
        model.role,
    ),
    Item(
        "3b",
        "Introduction",
        "target population, purpose in care, users",
        model.practice,
    ),
    Item("3c", "Introduction", "known inequalities of health"),
    Item("4", "Introduction", "objectives; development, validation or both", model.goal),
    Item("5a", "Methods", "sources of all data, and why these", data.sources),
    Item("5b", "Methods", "dates of the data"),
    Item("6a", "Methods", "setting: care, number and place of centres"),
    Item("6b", "Methods", "eligibility", data.exclusion),
    Item("6c", "Methods", "treatments received"),
    Item("7", "Methods", "preparation and quality checks", model.preprocessing),
    Item("8a", "Methods", "outcome: definition, how and when assessed", data.labels),
    Item("8b", "Methods", "assessors of the outcome"),
    Item("8c", "Methods", "blinding of the outcome's assessment"),
    Item("9a", "Methods", "choice of predictors", model.predictors),
    Item("9b", "Methods", "predictors: definition and measurement", data.acquisition),
    Item("9c", "Methods", "assessors of the predictors"),
    Item("10", "Methods", "study size, and whether it suffices"),
    Item("11", "Methods", "missing data", data.missing),
    Item("12a", "Methods", "how the data were used and partitioned", data.partitions),
    Item("12b", "Methods", "how predictors were handled", model.predictors),
    Item("12c", "Methods", "type of model, building steps, internal validation", model.building),
    Item("12d", "Methods", "heterogeneity across clusters, as hospitals", results.clusters),
    Item("12e", "Methods", "measures and plots of performance", results.metrics),
    Item("12f", "Methods", "updating of the model, as recalibration", results.recalibration),
    Item("12g", "Methods", "how predictions were calculated", model.predictions),
    Item("13", "Methods", "class imbalance", model.imbalance),
    Item("14", "Methods", "fairness"),
    Item("15", "Methods", "output of the model; classification and thresholds", model.output),
    Item("16", "Methods", "differences between development and evaluation data", results.external),
    Item("17", "Methods", "ethics approval and consent"),
    Item("18a", "Open science", "funding"),
    Item("18b", "Open science", "conflicts of interest"),
    Item("18c", "Open science", "protocol", model.protocol),
    Item("18d", "Open science", "registration"),
    Item("18e", "Open science", "sharing of data", data.data_sharing),
    Item("18f", "Open science", "sharing of code", model.availability),
    Item("19", "Patient involvement", "involvement of patients and public"),
    Item("20a", "Results", "flow of participants, with and without the outcome", data.flow),
    Item("20b", "Results", "characteristics of the participants", data.characteristics),
    Item("20c", "Results", "distribution of predictors beside the development data", results.shift),
    Item("21", "Results", "participants and events in each analysis", data.flow),
    Item("22", "Results", "the full model, so that others can use it", model.predictions),
    Item("23a", "Results", "performance with intervals, also of subgroups", results.diagnostic),
    Item("23b", "Results", "heterogeneity of performance across clusters", results.clusters),
    Item("24", "Results", "results of updating", results.recalibration),
    Item("25", "Discussion", "interpretation, fairness included"),
    Item("26", "Discussion", "limitations", results.limitations),
    Item("27a", "Discussion", "poor or unavailable input, when used", model.poor_input),
    Item("27b", "Discussion", "interaction and expertise that users need", model.users),
    Item("27c", "Discussion", "next steps; applicability"),
)
