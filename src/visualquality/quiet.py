"""Keep other libraries' notices off the user's screen; their errors stay."""

import logging
import warnings


def quiet_libraries() -> None:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module="transformers|trl|peft|accelerate"
    )
