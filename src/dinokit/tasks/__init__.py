"""Jobs on a frozen backbone, one file each; what they have in common is in `task.py`."""
