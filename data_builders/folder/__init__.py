"""Layouts of folders of photographs and label maps that are not MaSS13K's."""
