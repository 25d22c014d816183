"""The daemon: the one place that builds everything, and the life of the process around it."""




