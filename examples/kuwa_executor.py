"""An executor as written for Kuwa's own framework, to show that such files run unchanged.

    kuwa-executor examples/kuwa_executor.py --access_code echo

It knows nothing of kuwa-min: `kuwa.executor` is importable because kuwa-executor runs the file.
"""

import asyncio
import json
import logging

from kuwa.executor import LLMExecutor

logger = logging.getLogger(__name__)


class EchoExecutor(LLMExecutor):
    """Repeat the last message, one character at a time."""

    def __init__(self):
        super().__init__()

    def extend_arguments(self, parser):
        """Add the delay."""
        parser.add_argument("--delay", type=float, default=0.02, help="Inter-token delay")

    def setup(self):
        """Nothing runs yet."""
        self.stop = False

    async def llm_compute(self, data):
        """Take the form as it came: the first generation of executors parsed it themselves."""
        try:
            self.stop = False
            history = json.loads(data.get("input"))
            for character in history[-1]["msg"]:
                yield character
                if self.stop:
                    self.stop = False
                    break
                await asyncio.sleep(self.args.delay)
        except Exception as error:
            logger.exception("Error occurs during generation.")
            yield str(error)
        finally:
            logger.debug("finished")

    async def abort(self):
        """Set the flag that llm_compute looks at after every character."""
        self.stop = True
        logger.debug("aborted")
        return "Aborted"


if __name__ == "__main__":
    executor = EchoExecutor()
    executor.run()
