"""Run a workspace's run_predict.py and write down the token ids of its answer.

    python answer_tokens.py WORKSPACE/run_predict.py FILE [ARGUMENT …]

The ids go to FILE as a JSON list; the exit code is run_predict's. On the simulated NPU: python -m simulator.start
answer_tokens.py …; what runs there shows arguments and control flow, never numerics or speed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    script, target, *arguments = sys.argv[1:]
    sys.path.insert(0, str(Path(script).resolve().parent))
    import run_predict
    from minigpt4.models.answer_stream import AnswerPrinter

    ids: list[int] = []
    show = AnswerPrinter.put

    def put(self: Any, tokens: Any) -> Any:
        ids.extend(tokens.flatten().tolist())
        return show(self, tokens)

    AnswerPrinter.put = put
    code = run_predict.main(arguments)
    Path(target).write_text(json.dumps(ids))
    return code


if __name__ == "__main__":
    sys.exit(main())
