"""What the pages say, in each language; and which language a browser gets."""

from collections.abc import Callable, Mapping
from typing import Final

LANGUAGES: Final[Mapping[str, str]] = {"en": "English", "ja": "日本語"}
DEFAULT: Final = "en"

Translate = Callable[..., str]
"""Takes a key and the values for the places in its text."""

TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    # the frame
    "overview": ("Overview", "概要"),
    "tasks": ("Tasks", "タスク"),
    "queues": ("Queues", "キュー"),
    "skip": ("Skip to the content", "本文へ移動"),
    "language": ("Language", "言語"),
    "menu": ("Pages", "ページ"),
    "tenant": ("Tenant", "テナント"),
    "signed_in": ("Signed in as {user}", "{user} としてサインイン中"),
    "sign_out": ("Sign out", "サインアウト"),
    "sign_in": ("Sign in", "サインイン"),
    "token": ("Access token", "アクセストークン"),
    "token_help": (
        "Paste a token that this server accepts. It is kept in a cookie that no script can read.",
        "このサーバーが受け付けるトークンを貼り付けてください。スクリプトからは読めない Cookie に保存されます。",
    ),
    "token_refused": ("This token is not accepted.", "このトークンは受け付けられません。"),
    "no_auth": (
        "Authentication is off: whoever reaches this address sees and changes everything.",
        "認証が無効です。このアドレスに到達できる人は誰でも、すべてを閲覧・変更できます。",
    ),
    "live": ("live", "ライブ"),
    "as_of": ("As of", "時点"),
    "more": ("More", "さらに表示"),
    "newest": ("Back to the newest", "最新に戻る"),
    "back": ("Back", "戻る"),
    "show": ("Show", "表示"),
    "actions": ("Actions", "操作"),
    # statuses and kinds
    "status": ("Status", "状態"),
    "status.PENDING": ("Pending", "待機中"),
    "status.IN_PROGRESS": ("In progress", "実行中"),
    "status.COMPLETED": ("Completed", "完了"),
    "status.FAILED": ("Failed", "失敗"),
    "status.CANCELLED": ("Cancelled", "キャンセル済み"),
    "kind": ("Kind", "種別"),
    "kind.TASK": ("single task", "単一タスク"),
    "kind.SFN_TASK": ("fan-out", "ファンアウト"),
    "kind.SUB_TASK": ("sub-task", "サブタスク"),
    "all": ("all", "すべて"),
    # overview
    "last_hour": ("The last hour", "直近1時間"),
    "chart": (
        "Tasks that ended per minute: {completed} completed and {failed} failed or cancelled in the last hour.",
        "1分ごとの終了タスク数。直近1時間で完了 {completed} 件、失敗またはキャンセル {failed} 件。",
    ),
    "chart_own": (
        "Counted from the tenant's {count} newest tasks.",
        "テナントの最新 {count} 件のタスクから集計しています。",
    ),
    "minute": (
        "{minute} UTC: {completed} completed, {failed} failed",
        "{minute} UTC：完了 {completed} 件、失敗 {failed} 件",
    ),
    "minutes_ago": ("{count} min ago", "{count} 分前"),
    "now": ("now", "現在"),
    "completed": ("completed", "完了"),
    "failed_or_cancelled": ("failed or cancelled", "失敗・キャンセル"),
    "waiting": ("Waiting", "待ち"),
    "delayed": ("Delayed", "遅延"),
    "in_flight": ("In flight", "処理中"),
    "oldest": ("Oldest waiting", "最も古い待ち"),
    "rate": ("Rate", "速度"),
    "per_second": ("{rate} per second", "毎秒 {rate} 件"),
    "dead_letters": ("Dead letters", "デッドレター"),
    "workers": ("Workers", "ワーカー"),
    "workers_alive": ("Workers alive", "稼働中のワーカー"),
    "no_workers": ("No worker is alive: nothing will run.", "稼働中のワーカーがありません。タスクは実行されません。"),
    "worker": ("Worker", "ワーカー"),
    "version": ("Version", "バージョン"),
    "serves": ("Serves", "担当"),
    "all_types": ("all types", "すべてのタイプ"),
    "nothing": ("nothing", "なし"),
    "runs": ("Runs", "実行中"),
    "of": ("{done} of {total}", "{total} 件中 {done} 件"),
    "and_failed": ("{count} failed", "失敗 {count} 件"),
    "newest_tasks": ("Newest tasks", "最新のタスク"),
    "choose_tenant": (
        "Choose a tenant to see its tasks.",
        "テナントを選ぶと、そのタスクが表示されます。",
    ),
    # tasks
    "type": ("Type", "タイプ"),
    "name": ("Name", "名前"),
    "code": ("Code", "コード"),
    "progress": ("Progress", "進捗"),
    "created": ("Created", "作成"),
    "started": ("Started", "開始"),
    "finished": ("Finished", "終了"),
    "took": ("Took", "所要時間"),
    "filter": ("Filter", "絞り込み"),
    "apply": ("Apply", "適用"),
    "reset": ("Reset", "リセット"),
    "since": ("Created since (UTC)", "作成日時・以降（UTC）"),
    "until": ("Created until (UTC)", "作成日時・以前（UTC）"),
    "search": ("Name or code contains", "名前またはコードに含む"),
    "no_tasks": ("No task matches.", "該当するタスクはありません。"),
    "select": ("Select {name}", "{name} を選択"),
    "select_all": ("Select all", "すべて選択"),
    "selected": ("With the selected:", "選択したタスクを："),
    "cancel": ("Cancel…", "キャンセル…"),
    "retry": ("Retry…", "再実行…"),
    "retry_now": ("Retry", "再実行"),
    # confirmation
    "confirm.cancel": ("Cancel these tasks ({count})?", "{count} 件のタスクをキャンセルしますか？"),
    "confirm.retry": ("Retry these tasks ({count})?", "{count} 件のタスクを再実行しますか？"),
    "confirm.redrive": ("Redrive all dead letters?", "すべてのデッドレターを再投入しますか？"),
    "confirm_cancel_help": (
        "They end as cancelled. What runs is told to stop; its result is dropped.",
        "キャンセル済みとして終了します。実行中の処理には停止が伝えられ、結果は破棄されます。",
    ),
    "confirm_retry_help": (
        "Each starts a new run. Of a fan-out only what did not complete runs again.",
        "それぞれ新しい実行が始まります。ファンアウトでは完了しなかったものだけが再実行されます。",
    ),
    "confirm_redrive_help": (
        "The task of each letter starts a new run, and the letter goes.",
        "各レターのタスクが新しく実行され、レターは削除されます。",
    ),
    "reason": ("Reason", "理由"),
    "reason_optional": ("Reason (optional)", "理由（任意）"),
    "do.cancel": ("Cancel the tasks", "タスクをキャンセルする"),
    "do.retry": ("Retry the tasks", "タスクを再実行する"),
    "do.redrive": ("Redrive them", "再投入する"),
    "keep": ("No, go back", "いいえ、戻る"),
    # what was done
    "done.cancel": ("Cancelled: {count}.", "{count} 件のタスクをキャンセルしました。"),
    "done.retry": ("Run again: {count}.", "{count} 件のタスクを再実行します。"),
    "done.pause": ("Paused.", "一時停止しました。"),
    "done.resume": ("Resumed.", "再開しました。"),
    "done.redrive": ("Redriven: {count}.", "{count} 件のデッドレターを再投入しました。"),
    "done.failed": (
        "Left alone, for they had ended or had not yet: {count}.",
        "{count} 件は対象外でした（すでに終了、または未終了）。",
    ),
    # one task
    "task": ("Task", "タスク"),
    "id": ("Id", "ID"),
    "why": ("Where it stands", "現在の状況"),
    "timeline": ("Timeline", "タイムライン"),
    "attempt": ("attempt {number}", "試行 {number}"),
    "segment.wait": ("waiting", "待ち"),
    "segment.attempt": ("running", "実行中"),
    "segment.unknown": ("no longer recorded", "記録なし"),
    "timeline_help": (
        "Run {number}: {seconds} in all, attempts: {attempts}.",
        "実行 {number}：合計 {seconds}、試行 {attempts} 回。",
    ),
    "time_left": ("about {seconds} left", "残り約 {seconds}"),
    "unknown_total": ("{done} done", "{done} 完了"),
    "input": ("Input", "入力"),
    "result": ("Result", "結果"),
    "error": ("Error", "エラー"),
    "traceback": ("Traceback", "トレースバック"),
    "state": ("Saved state", "保存された状態"),
    "no_value": ("nothing", "なし"),
    "inputs_elsewhere": ("{count} elements; see its sub-tasks", "{count} 要素（サブタスクを参照）"),
    "large_value": ("{size}, folded", "{size}（折りたたみ）"),
    "cut_value": ("The beginning; the whole value is {size}.", "先頭のみ表示。全体は {size} です。"),
    "download": ("Download", "ダウンロード"),
    "history": ("History", "履歴"),
    "history_dropped": ("{count} older entries were dropped.", "古い記録 {count} 件は破棄されました。"),
    "at": ("At", "日時"),
    "by": ("By", "実行者"),
    "attempts": ("Attempt", "試行"),
    "run_column": ("Run", "実行"),
    "logs": ("Log", "ログ"),
    "no_logs": ("Nothing was logged.", "ログはありません。"),
    "logs_cut": ("Only the last {count} of {total} lines.", "全 {total} 行のうち最後の {count} 行。"),
    "lines_dropped": ("… {count} lines were dropped", "… {count} 行が破棄されました"),
    "sub_tasks": ("Sub-tasks", "サブタスク"),
    "priority": ("Priority", "優先度"),
    "deadline": ("Deadline", "期限"),
    "kept_until": ("Kept until", "保持期限"),
    "next_attempt": ("Next attempt", "次の試行"),
    "lease": ("Lease until", "リース期限"),
    "execution": ("Execution", "実行 ARN"),
    "details": ("Details", "詳細"),
    "cancel_requested": ("It is being cancelled.", "キャンセル処理中です。"),
    # causes: where a task stands
    "cause.ended": ("It has ended", "終了しています"),
    "cause.running": ("It is running", "実行中です"),
    "cause.lease over": ("Its worker is gone", "担当ワーカーが失われました"),
    "cause.fan-out runs": ("Its sub-tasks are running", "サブタスクを実行中です"),
    "cause.ending": ("It is ending", "終了処理中です"),
    "cause.paused": ("It is held up by a pause", "一時停止により保留されています"),
    "cause.backoff": ("It waits for its next attempt", "次の試行を待っています"),
    "cause.no worker": ("No worker serves its type", "このタイプを担当するワーカーがありません"),
    "cause.capped": ("As many of its type run as may", "このタイプの同時実行数が上限に達しています"),
    "cause.dispatch": ("It was just created", "作成直後です"),
    "cause.turn": ("It waits for its turn", "順番を待っています"),
    "cause.taken": ("A worker is taking it", "ワーカーが取得中です"),
    "cause.repair": ("It waits for a repair", "修復を待っています"),
    "cause.suspended": ("It holds no worker for now", "ワーカーを使わずに待機しています"),
    # fan-out
    "grid": ("Sub-tasks {first} to {last} of {count}", "サブタスク {first}〜{last}（全 {count} 件）"),
    "grid_each": ("Each cell is one sub-task.", "1マスが1つのサブタスクです。"),
    "grid_ranges": (
        "Each cell stands for {size} sub-tasks; open one to look closer.",
        "1マスが {size} 件のサブタスクを表します。選ぶと拡大します。",
    ),
    "grid_keys": ("Arrow keys move between the cells.", "矢印キーでマスを移動できます。"),
    "grid_mixed": ("partly done", "一部完了"),
    "zoom_out": ("Show all", "全体を表示"),
    "from_index": ("From", "開始"),
    "to_index": ("to", "終了"),
    "failures": ("Failures by error", "エラー別の失敗"),
    "no_failures": ("Nothing has failed.", "失敗はありません。"),
    "count": ("Count", "件数"),
    "examples": ("For example", "例"),
    "failures_cut": (
        "Counted over the first {count} failures.",
        "最初の {count} 件の失敗から集計しています。",
    ),
    "index": ("Number", "番号"),
    "no_sub_tasks": ("It has no sub-tasks.", "サブタスクはありません。"),
    # queues
    "queues_help": (
        "What waits for workers, by tenant and type.",
        "ワーカーを待っているタスク（テナント・タイプ別）。",
    ),
    "queues_empty": ("The queues are empty.", "キューは空です。"),
    "paused": ("paused", "一時停止中"),
    "pauses": ("Pauses", "一時停止"),
    "no_pauses": ("Nothing is paused.", "一時停止はありません。"),
    "pause": ("Pause", "一時停止"),
    "resume": ("Resume", "再開"),
    "pause_what": ("What to pause", "一時停止の対象"),
    "scope": ("Scope", "対象"),
    "scope.type": ("task type", "タスクタイプ"),
    "scope.tenant": ("tenant", "テナント"),
    "paused_since": ("Since", "開始"),
    "redrive": ("Redrive", "再投入"),
    "redrive_all": ("Redrive all…", "すべて再投入…"),
    "no_dead_letters": ("There are no dead letters.", "デッドレターはありません。"),
    "failures_count": ("Failures", "失敗回数"),
    # errors
    "error.title": ("This did not work", "処理できませんでした"),
    "error.forbidden": (
        "You may not do this, or there is no such thing.",
        "この操作は許可されていないか、対象が存在しません。",
    ),
    "error.not_found": ("There is no such task or page.", "該当するタスクまたはページはありません。"),
    "error.forged": (
        "This form was not sent from this dashboard, or is too old. Go back, reload the page and try again.",
        "このフォームはダッシュボードから送信されていないか、古くなっています。"
        "戻って再読み込みし、もう一度お試しください。",
    ),
    "error.failed": (
        "The server failed; its log says more.",
        "サーバーでエラーが発生しました。詳細はサーバーのログを確認してください。",
    ),
    "error.busy": ("The server is busy; try again.", "サーバーが混み合っています。もう一度お試しください。"),
    "error.too_large": ("Too much was sent.", "送信されたデータが大きすぎます。"),
    # durations
    "seconds": ("{count} s", "{count} 秒"),
    "minutes": ("{count} min", "{count} 分"),
    "hours": ("{count} h", "{count} 時間"),
    "days": ("{count} d", "{count} 日"),
}
"""English and Japanese by key; places for values stand in braces."""


def translator(language: str) -> Translate:
    """Gives the texts in *language*, one of `LANGUAGES`."""
    column = list(LANGUAGES).index(language)

    def translate(key: str, /, **values: object) -> str:
        shown = {name: f"{value:,}" if type(value) is int else value for name, value in values.items()}
        return TEXTS[key][column].format(**shown)

    return translate


def language_of(chosen: str | None, accept_language: str) -> str:
    """What was *chosen*, else what the browser likes best of what there is (`Accept-Language`)."""
    if chosen is not None and chosen in LANGUAGES:
        return chosen
    best, best_quality = DEFAULT, 0.0
    for part in accept_language.split(","):
        name, _, parameter = part.strip().partition(";")
        language = name.strip().lower().partition("-")[0]
        quality = _quality(parameter)
        if language in LANGUAGES and quality > best_quality:
            best, best_quality = language, quality
    return best


def _quality(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return min(1.0, max(0.0, float(value)))
    except ValueError:
        return 0.0
