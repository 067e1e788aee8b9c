"""How weights come in and go out: folders and files of several layouts, as data only, never as code."""
