"""python -m experiments.fidelity.chain --ilsvrc2012=PATH --fall2009=PATH --fall2011=PATH --out=runs

The pre-training behind the paper's rows "1 CNN*" and "7 CNNs*": four runs, each from the weights of
the one before. If repeated, the command leaves complete runs as they are and resumes an interrupted
one. --dry_run prints the four commands. Every run gets the flags after --:

    python -m experiments.fidelity.chain ... -- --config.mesh.model=2 --config.precision=bfloat16
"""

import argparse
import dataclasses
import pathlib
import shlex
import subprocess
import sys


@dataclasses.dataclass(frozen=True)
class Stage:
    """One run of the chain.

    Attributes:
      run: its name in the authors' notebook, and its workdir's.
      recipe: of configs/recipes.
      data: which of the three data sets it learns from.
      before: the run whose weights it begins with, "" for none.
    """

    run: str
    recipe: str
    data: str
    before: str = ""


STAGES = (
    Stage("145", "original_code", "ilsvrc2012"),
    Stage("146-2009", "fall2009", "fall2009", "145"),
    Stage("146-2011", "fall2011", "fall2011", "146-2009"),
    Stage("146-2012-2011", "original_code_conv6", "ilsvrc2012", "146-2011"),
)


def command(stage: Stage, data: dict[str, str], out: pathlib.Path, more: list[str]) -> list[str]:
    """Returns the command of a stage.

    Args:
      stage: of STAGES.
      data: the path of each data set.
      out: the folder of the workdirs.
      more: flags of the user's own.
    """
    begin = [f"--config.init.weights={out / stage.before}"] if stage.before else []
    return [
        *(sys.executable, "-m", "alexnet_jax.main", f"--workdir={out / stage.run}"),
        *(f"--config={stage.recipe}", f"--config.dataset={data[stage.data]}", *begin, *more),
    ]


def main(arguments: list[str]) -> int:
    """Runs the stages; returns the exit code of the first that fails."""
    first, _, more = " ".join(map(shlex.quote, arguments)).partition(" -- ")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted({stage.data for stage in STAGES})
    for name in names:
        parser.add_argument(f"--{name}", required=True, help="a store or a folder of it")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the workdirs")
    parser.add_argument("--dry_run", action="store_true", help="only print the commands")
    options = parser.parse_args(shlex.split(first))
    data = {name: getattr(options, name) for name in names}
    for stage in STAGES:
        words = command(stage, data, options.out, shlex.split(more))
        print(shlex.join(["python", *words[1:]]), flush=True)
        if not options.dry_run and (code := subprocess.run(words, check=False).returncode):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
