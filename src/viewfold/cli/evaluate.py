"""`viewfold evaluate`: what views and meshes are worth, by themselves and beside true ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction

from viewfold.cli.blind import BlindFlags, VoteFlags, write_pairs
from viewfold.cli.failures import fail_if_any
from viewfold.cli.fidelity import print_fidelity
from viewfold.cli.measuring import Measuring, SpreadFlags, in_words, measure_all, read_reference
from viewfold.cli.model import Device
from viewfold.cli.option import unset
from viewfold.cli.report import ReportFlags, SurveyFlags, Thing, check_flags, find_things, refuse_beside, write_report
from viewfold.errors import FileError, InputError

if TYPE_CHECKING:
    from viewfold.evaluation.case import Case
    from viewfold.evaluation.colors import Corpus


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure views (do they show one object?), meshes (are they sound, and like a true one?), and sets of pictures."""

    paths: Positional[Annotated[tuple[Path, ...], unset("PATHS")]]
    """Folders of views, meshes (.glb, .gltf, .obj or .ply), folders that hold many of either; see also --encoder."""
    reference: Annotated[Path | None, unset("FILE")] = None
    """A true mesh, that the meshes are compared with, in place."""
    fit: bool = False
    """Move and scale meshes and reference into the same sphere before they are compared."""
    halves: bool = False
    """Also fit an object to each half of the views, 8 or more, and compare the two (some 10 seconds)."""
    left_out: bool = False
    """Also leave each of up to 8 views out in turn, and compare it with what is fitted to the others (a minute)."""
    matches: bool = False
    """Also match key points of neighbouring views, of 512 pixels or more (needs pycolmap)."""
    corpus: Annotated[Path | None, unset("FOLDER")] = None
    """Folders of views of true things, among which the saturation and contrast of the views are placed."""
    encoder: Annotated[str | None, unset("SPEC")] = None
    """Measure all pictures as one set, by efficientnet-lite0, or KIND=FILE as docs/evaluation.md lists them."""
    real: Annotated[tuple[Path, ...], UseAppendAction, unset("PATH")] = ()
    """True pictures, that those are compared with (FID, KID): folders or shards; may be given again."""
    device: Device = "auto"
    """Where --encoder looks, or --prompts are drawn; auto takes the first GPU."""
    json: bool = False
    """Print one JSON object a line, with every figure."""
    spread: SpreadFlags = SpreadFlags()
    page: ReportFlags = ReportFlags()
    survey: SurveyFlags = SurveyFlags()
    blind: BlindFlags = BlindFlags()
    ballot: VoteFlags = VoteFlags()

    def run(self) -> None:
        """Print what each is worth; one that cannot be read is named, and the others are measured all the same."""
        if self.ballot.is_asked(self.paths):
            refuse_beside(self, "votes", ("paths", "key", "json"))
            self.ballot.count(as_json=self.json)
            return
        check_flags(self)
        if self.encoder is not None:
            print_fidelity(self, self.encoder)
            return
        if self.real:
            raise InputError("`real` must go with `encoder`, which looks at pictures.")
        if self.device != "auto" and self.survey.prompts is None:
            raise InputError("`device` must go with `encoder`, which looks at pictures, or `prompts`.")
        if self.blind.ab is not None and self.page.folder(self.survey) is None:  # nothing is measured
            refuse_beside(self, "ab", ("paths", "pairs", "order", "json"))
        if self.reference is None and self.fit:
            raise InputError("`fit` must go with `reference`, which meshes are compared with.")
        failed: list[tuple[str, str]] = []
        with self.spread.pool(self.page.folder(self.survey), self.paths) as pool:
            how = self._how(failed, shown=pool is None)
            things: Iterable[Thing] = (
                find_things(self.paths) if self.survey.prompts is None else self.survey.draw(failed, device=self.device)
            )
            if self.blind.ab is not None:
                things = write_pairs(self, list(things), failed)
            cases = []
            for thing, record in measure_all(things, how, pool):
                if isinstance(record, str):
                    failed.append((str(thing.path), record))
                    continue
                print(json.dumps(record) if self.json else in_words(record), flush=True)
                cases += [_case(thing, record)] if self.page.folder(self.survey) else []
        write_report(self, cases, failed)
        fail_if_any(failed)

    def _how(self, failed: list[tuple[str, str]], *, shown: bool) -> Measuring:
        """Return how things are measured; a reference that cannot be read ends it all."""
        if self.reference is not None:
            read_reference(self.reference)
        return Measuring(
            reference=self.reference,
            fit=self.fit,
            halves=self.halves,
            left_out=self.left_out,
            matches=self.matches,
            corpus=self._corpus(failed),
            cwd=Path() if shown else Path.cwd(),
            shown=shown,
        )

    def _corpus(self, failed: list[tuple[str, str]]) -> Corpus | None:
        """Return the colours of the corpus; folders of it that cannot be read are added to `failed`."""
        if self.corpus is None:
            return None
        from viewfold.evaluation.colors import Corpus
        from viewfold.evaluation.record import views_colors
        from viewfold.views import Views

        found = []
        for thing in find_things((self.corpus,)):
            try:
                found.append(views_colors(Views.load(thing.path)))
            except (FileError, InputError) as error:
                failed.append((str(thing.path), str(error)))
        return Corpus(colors for colors in found if colors is not None)


def _case(thing: Thing, record: dict[str, Any]) -> Case:
    from viewfold.evaluation.case import make_case

    return make_case(thing.path, record, run=thing.run, name=thing.name)
