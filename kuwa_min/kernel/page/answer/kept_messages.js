/** Draw stored messages, as they looked when they were new. */
import { showAttachments } from "../attachments/attachments.js";
import { text } from "../texts.js";
import { answerView } from "./answer_view.js";
import { summaryOf } from "./summary.js";
import { addMessage } from "./transcript.js";

/** Return the element of a question. */
export function drawQuestion(message) {
  const made = addMessage("user", text.you, message.text);
  showAttachments(made, message.attachments);
  return made;
}

/** Return the element of an answer. */
export function drawAnswer(message) {
  const view = answerView();
  if (message.thoughts) {
    view.think(message.thoughts);
    view.endThoughts(message.thinking_seconds);
  }
  view.write(message.text);
  for (const note of message.notes || []) {
    view.openNote();
    view.writeNote(note);
    view.closeNote();
  }
  for (const { level, text: line } of message.logs || []) view.log(level, line);
  if (message.problem) view.fail(message.problem);
  view.say(summaryOf(message));
  view.done(message.exit_code);
  return view.message;
}
