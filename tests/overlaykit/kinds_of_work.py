"""Work of a user that apply.py would overwrite: each function does one kind of it in a workspace."""

from __future__ import annotations

from collections.abc import Callable

from toys import Toy

Prepare = Callable[[Toy], None]


def edit(toy: Toy) -> None:
    toy.write("demo.py", b"mine\n")


def edit_assumed_unchanged(toy: Toy) -> None:
    toy.git("update-index", "--assume-unchanged", "demo.py")
    toy.write("demo.py", b"mine\n")


def make_executable(toy: Toy) -> None:
    (toy.workspace / "demo.py").chmod(0o755)


def stage(toy: Toy) -> None:
    toy.write("demo.py", b"mine\n")
    toy.git("add", "demo.py")


def stage_then_put_back(toy: Toy) -> None:
    old = toy.read("demo.py")
    stage(toy)
    toy.write("demo.py", old)


def stage_then_delete(toy: Toy) -> None:
    stage(toy)
    (toy.workspace / "demo.py").unlink()


def delete(toy: Toy) -> None:
    (toy.workspace / "demo.py").unlink()


def edit_what_a_patch_deletes(toy: Toy) -> None:
    toy.write("old.py", b"x = 2\n")


def untracked(toy: Toy) -> None:
    toy.write("run_predict.py", b"mine\n")


def untracked_where_a_patch_adds(toy: Toy) -> None:
    toy.write("minigpt4/hook.py", b"mine\n")


def ignored(toy: Toy) -> None:
    toy.write(".git/info/exclude", b"run_predict.py\n")
    toy.write("run_predict.py", b"mine\n")


def untracked_folder(toy: Toy) -> None:
    toy.write("run_predict.py/notes.txt", b"mine\n")
    toy.write("run_predict.py/deep/more.bin", bytes(range(256)))


def ignored_folder(toy: Toy) -> None:
    toy.write(".git/info/exclude", b"run_predict.py\n")
    toy.write("run_predict.py/model.pth", b"mine\n")


def empty_folder(toy: Toy) -> None:
    (toy.workspace / "run_predict.py").mkdir()


def file_where_a_folder_must_be(toy: Toy) -> None:
    toy.write("minigpt4/models", b"mine\n")


def link_where_a_folder_must_be(toy: Toy) -> None:
    toy.write("elsewhere/port.py", b"mine\n")
    (toy.workspace / "minigpt4" / "models").symlink_to("../elsewhere")


def link_in_place_of_a_file(toy: Toy) -> None:
    toy.write("elsewhere.py", b"mine\n")
    (toy.workspace / "demo.py").unlink()
    (toy.workspace / "demo.py").symlink_to("elsewhere.py")


def dangling_link(toy: Toy) -> None:
    (toy.workspace / "run_predict.py").symlink_to("nowhere")


def yaml_edited_on_the_line_of_a_patch(toy: Toy) -> None:
    toy.write("eval_configs/eval.yaml", toy.read("eval_configs/eval.yaml").replace(b"the architecture", b"mine"))


ALL = [
    edit,
    edit_assumed_unchanged,
    make_executable,
    stage,
    stage_then_put_back,
    stage_then_delete,
    delete,
    edit_what_a_patch_deletes,
    untracked,
    untracked_where_a_patch_adds,
    ignored,
    untracked_folder,
    ignored_folder,
    empty_folder,
    file_where_a_folder_must_be,
    link_where_a_folder_must_be,
    link_in_place_of_a_file,
    dangling_link,
    yaml_edited_on_the_line_of_a_patch,
]
