"""Drop-in layers: the names, arguments and conventions of other attack libraries, on this project's engine."""
