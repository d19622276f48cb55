"""The suite is played in processes of its own."""

collect_ignore = ["suite"]
